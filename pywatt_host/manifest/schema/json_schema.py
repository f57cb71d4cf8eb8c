"""Generates the published JSON schemas of the manifest and the workspace (draft 2020-12) from the model.

`python -m pywatt_host.manifest.schema.json_schema > schemas/pywatt.schema.json` updates the schema of pywatt.yaml, and
`python -m pywatt_host.manifest.schema.json_schema workspace > schemas/wattson.schema.json` that of wattson.yaml.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal, TypeAlias

from pydantic.fields import FieldInfo

from pywatt_host.manifest.model import Section
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.schema.shape import (
    Choice,
    DictShape,
    Free,
    Leaf,
    ListShape,
    SectionShape,
    Shape,
    manifest_shape,
    shape_of,
)

Schema: TypeAlias = dict[str, Any]

_TEMPLATE: Schema = {"$ref": "#/$defs/Interpolation"}
_FREE_KEYS: Schema = {"^x-": {"description": "Yours: the host does not read it."}}
_ANNOTATIONS = ("title", "description", "default", "examples")
# Names that pydantic uses for the bounds of a number with a custom validator.
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_CONSTRAINTS = {"const", "enum", "pattern", "minLength", "maxLength"}
_LEFT_OUT = "left out"
_PROFILES = "Partial manifests by name. The one that --profile or PYWATT_PROFILE names is merged over the rest."


def manifest_schema() -> Schema:
    """Generate the schema of pywatt.yaml. The caller may change the returned mapping."""
    shape = manifest_shape()
    writer = _Writer(shape.model)
    properties = writer.properties(shape, partial=False)
    profile = writer.closed(writer.properties(shape, partial=True), "A partial manifest.")
    del profile["properties"]["version"]
    properties["profiles"] = {
        **_explained("profiles", _PROFILES, "{}"),
        "default": {},
        "examples": [{"dev": {"logging": {"level": "debug"}}}],
        "type": "object",
        "additionalProperties": {"$ref": "#/$defs/Profile"},
    }
    body = writer.closed(properties, "pywatt.yaml: an ASGI or WSGI application and how it is served.")
    return _document("pywatt.schema.json", "PyWatt Host manifest", body, {"Profile": profile, **writer.sorted()})


def workspace_schema() -> Schema:
    """Generate the schema of wattson.yaml. The caller may change the returned mapping."""
    shape = shape_of(Workspace)
    writer = _Writer(shape.model)
    body = writer.closed(writer.properties(shape, partial=False), "wattson.yaml: modules that run together.")
    body["required"] = _required(shape)
    return _document("wattson.schema.json", "PyWatt Host workspace", body, writer.sorted())


def _document(name: str, title: str, body: Schema, definitions: dict[str, Schema]) -> Schema:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": name,
        "title": title,
        **body,
        "$defs": {
            "Interpolation": {
                "description": "A text with ${NAME}, ${NAME:-default} or ${NAME:?message} in it.",
                "type": "string",
                "pattern": r"\$\{",
            },
            **definitions,
        },
    }


def _required(shape: SectionShape) -> list[str]:
    return [info.alias or key for key, info in shape.model.model_fields.items() if info.is_required()]


class _Writer:
    """Writes a definition for each section, and a second one for each section that may be partial in a profile."""

    def __init__(self, root: type[Section]) -> None:
        self.definitions: dict[str, Schema] = {}
        generated = root.model_json_schema()
        self._generated: dict[str, Schema] = {**generated["$defs"], root.__name__: generated}

    def _keys_of(self, model: type[Section]) -> dict[str, Schema]:
        """The schemas that pydantic generates for the keys of a section."""
        if model.__name__ not in self._generated:  # a deferred section
            generated = model.model_json_schema()
            self._generated |= {**generated.get("$defs", {}), model.__name__: generated}
        properties: dict[str, Schema] = self._generated[model.__name__]["properties"]
        return properties

    def sorted(self) -> dict[str, Schema]:
        """The definitions, sorted by name."""
        return dict(sorted(self.definitions.items()))

    def closed(self, properties: dict[str, Schema], description: str) -> Schema:
        """The schema of a mapping with exactly these keys."""
        return {
            "description": description,
            "type": "object",
            "properties": properties,
            "patternProperties": _FREE_KEYS,
            "additionalProperties": False,
        }

    def properties(self, shape: SectionShape, *, partial: bool) -> dict[str, Schema]:
        """The schemas of a section's keys: their annotations for editors, and their values."""
        generated = self._keys_of(shape.model)
        fields = {info.alias or name: info for name, info in shape.model.model_fields.items()}
        return {
            key: {
                **_annotations(key, fields[key], below),
                **self._value(below, _bare(generated[key]), partial=partial),
            }
            for key, below in shape.keys.items()
        }

    def _section(self, shape: SectionShape, *, partial: bool) -> Schema:
        partial = partial and _needs_keys(shape)
        name = ("Partial" if partial else "") + shape.model.__name__
        if name not in self.definitions:
            self.definitions[name] = {}  # reserves its place before the sections in it
            body = self.closed(self.properties(shape, partial=partial), _sentence(shape.model))
            required = _required(shape)
            if required and not partial:
                body["required"] = required
            self.definitions[name] = body
        return {"$ref": f"#/$defs/{name}"}

    def _value(self, shape: Shape, generated: Schema, *, partial: bool) -> Schema:
        if isinstance(shape, Free):
            return {}
        if isinstance(shape, Leaf):
            return _scalar(generated) | ({"x-secret": True} if shape.secret else {})
        if isinstance(shape, ListShape):
            items = self._value(shape.item, _bare(generated.get("items", {})), partial=False)
            array: Schema = {"type": "array", "items": items}
            array |= {key: generated[key] for key in ("minItems", "maxItems") if key in generated}
            return {"anyOf": [*_alternatives(items), array]} if shape.one else array
        if isinstance(shape, DictShape):
            return self._dict(shape, generated)
        if isinstance(shape, Choice) and shape.scalar is not None:
            return self._scalar_or_section(shape, generated)
        if isinstance(shape, Choice) and shape.short is None:
            return self._mount(shape)
        return self._short(shape, partial=partial)

    def _dict(self, shape: DictShape, generated: Schema) -> Schema:
        schema: Schema = {"type": "object"}
        schema |= {key: generated[key] for key in ("minProperties", "maxProperties") if key in generated}
        if shape.names:
            name = dict(generated.get("propertyNames", {})) or _name_pattern(generated)
            listed = {"type": "array", "items": _scalar({"type": "string", **name}), "uniqueItems": True}
            mapping = self._dict(DictShape(shape.value), generated)
            return {"anyOf": [listed, mapping]}
        values = generated.get("additionalProperties", True)
        names = dict(generated.get("propertyNames", {}))
        for pattern, value in generated.get("patternProperties", {}).items():
            names["pattern"], values = pattern, value
        if names:
            schema["propertyNames"] = names
        if not isinstance(shape.value, Free):
            schema["additionalProperties"] = self._value(shape.value, _bare(values), partial=False)
        return schema

    def _mount(self, shape: Choice) -> Schema:
        """Two kinds of mount, distinguished by one key, so that editors report faults of the kind that is meant."""
        folder, app = shape.shapes["folder"], shape.shapes["app"]
        assert isinstance(folder, SectionShape)
        assert isinstance(app, SectionShape)
        key = "directory"
        return {
            "type": "object",
            # Editors suggest both keys in a new mapping, whichever kind they assume.
            "properties": {
                "import_path": self.properties(app, partial=False)["import_path"],
                key: self.properties(folder, partial=False)[key],
            },
            "if": {"required": [key]},
            "then": self._section(folder, partial=False),
            "else": self._section(app, partial=False),
        }

    def _scalar_or_section(self, shape: Choice, generated: Schema) -> Schema:
        """A value that is either a scalar or a section."""
        kinds: list[Schema] = []
        for below, kind in zip(shape.shapes.values(), generated["oneOf"], strict=True):
            kinds += _alternatives(self._value(below, _bare(kind), partial=False))
        return {"anyOf": kinds}

    def _short(self, shape: SectionShape | Choice, *, partial: bool) -> Schema:
        """A section and its short forms."""
        kinds: list[Schema] = []
        section = shape.shapes["auto"] if isinstance(shape, Choice) else shape
        assert isinstance(section, SectionShape)
        if shape.short is None:
            return self._section(section, partial=partial)
        if shape.short.flag is not None:
            kinds.append({"type": "boolean"})
        if shape.short.text is not None:
            text = _bare(self._keys_of(section.model)[shape.short.text])
            listed = isinstance(section.keys[shape.short.text], ListShape)
            kinds += _alternatives(_scalar(_bare(text["items"]) if listed else text))
        elif shape.short.flag is not None:
            kinds.append(_TEMPLATE)
        if shape.short.names is not None:
            generated = _bare(self._keys_of(section.model)[shape.short.names])
            mapping = section.keys[shape.short.names]
            assert isinstance(mapping, DictShape)
            kinds.append(self._dict(mapping, generated)["anyOf"][0])
        if shape.short.items is not None:
            items = section.keys[shape.short.items]
            assert isinstance(items, ListShape)
            generated = _bare(self._keys_of(section.model)[shape.short.items])
            kinds.append(self._value(ListShape(items.item), generated, partial=False))
        if isinstance(shape, Choice):
            kinds.append(self._value(shape.shapes["list"], {}, partial=False))
        return {"anyOf": [*kinds, self._section(section, partial=partial)]}


def _name_pattern(generated: Schema) -> Schema:
    patterns = list(generated.get("patternProperties", {}))
    return {"pattern": patterns[0]} if patterns else {}


def _annotations(key: str, info: FieldInfo, shape: Shape) -> Schema:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    description = info.description or ""
    if info.is_required():
        annotations = _explained(key, description, None)
    else:
        value = extra.get("default", _default(info, shape))
        shown = _LEFT_OUT if value is None else json.dumps(value) if not isinstance(value, str) else value
        annotations = _explained(key, description, shown)
        if value is None or (isinstance(value, str) and value.startswith("server.")):
            # No value in a manifest means the same, so this is only for readers.
            annotations["x-default"] = shown
        else:
            annotations["default"] = value
    annotations["examples"] = list(info.examples or ())
    return annotations


def _explained(key: str, description: str, default: str | None) -> Schema:
    more = f"\n\nDefault: `{default}`" if default is not None else "\n\nRequired."
    title = key.replace("_", " ").capitalize()
    return {"title": title, "description": description, "markdownDescription": description + more}


def _default(info: FieldInfo, shape: Shape) -> Any:
    """The default as a manifest would write it; None if omitting the key differs from every value."""
    value = info.get_default(call_default_factory=True)
    if value is None and isinstance(shape, Leaf):
        return _written(info)
    if isinstance(value, Section):
        short = shape.short if isinstance(shape, SectionShape | Choice) else None
        data = value.model_dump(mode="json", by_alias=True)
        if short is None or (short.text is None and short.flag is None):
            return {}
        on = short.flag is None or data[short.flag]
        return data[short.text] if short.text is not None and on else on
    if isinstance(shape, ListShape) and shape.one and value is not None and len(value) == 1:
        return _written(info)[0]
    return _written(info)


def _written(info: FieldInfo) -> Any:
    """The default, converted by the field's serializer: `15s` and not 15.0."""
    holder = next(
        (section for section in _sections(Section) for other in section.model_fields.values() if other is info), None
    )
    assert holder is not None
    name = next(name for name, other in holder.model_fields.items() if other is info)
    default = info.get_default(call_default_factory=True)
    return holder.model_construct().model_dump(mode="json", include={name}).get(name, default)


def _sections(base: type[Section]) -> list[type[Section]]:
    return [base, *(found for each in base.__subclasses__() for found in _sections(each))]


def _sentence(model: type[Section]) -> str:
    return " ".join((model.__doc__ or "").split())


def _needs_keys(shape: Shape) -> bool:
    """Whether the section, or a section reached from it without a list, has a required key."""
    if not isinstance(shape, SectionShape):
        return False
    return any(info.is_required() for info in shape.model.model_fields.values()) or any(
        _needs_keys(below) for below in shape.keys.values()
    )


def _bare(generated: Any) -> Schema:
    """The constraints of a value, without its annotations and without null."""
    if not isinstance(generated, dict):
        return {}
    constraints: Schema = {key: value for key, value in generated.items() if key not in _ANNOTATIONS}
    bare = {_BOUNDS.get(key, key): value for key, value in constraints.items()}
    kinds = [_bare(kind) for kind in bare.get("anyOf", ()) if kind != {"type": "null"}]
    if kinds:
        bare["anyOf"] = kinds
    return kinds[0] if len(kinds) == 1 and len(bare) == 1 else bare


def _alternatives(schema: Schema) -> list[Schema]:
    return list(schema["anyOf"]) if set(schema) == {"anyOf"} else [schema]


def _scalar(generated: Schema) -> Schema:
    """A scalar, or a string with `${...}` in its place."""
    kinds = []
    for kind in _alternatives(generated):
        if "properties" in kind:
            required = kind["required"]
            scalars = {key: _scalar_key(key, each, key in required) for key, each in kind["properties"].items()}
            kind = {**kind, "properties": scalars, "patternProperties": _FREE_KEYS}
        kinds.append(kind)
    # A string without constraints accepts a template already.
    if not any(_is_open_text(kind) for kind in kinds):
        at = len(kinds) - sum("properties" in kind for kind in kinds)
        kinds.insert(at, _TEMPLATE)
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _scalar_key(key: str, each: Schema, required: bool) -> Schema:
    default = None if required else str(each.get("default", _LEFT_OUT))
    said: Schema = {name: each[name] for name in ("default", "examples") if name in each}
    if default == _LEFT_OUT:
        said["x-default"] = default
    return {**_explained(key, each["description"], default), **said, **_scalar(_bare(each))}


def _is_open_text(kind: Schema) -> bool:
    types = kind.get("type")
    is_text = types == "string" or (isinstance(types, list) and "string" in types)
    return is_text and not (_CONSTRAINTS - {"minLength"}) & set(kind)


def text(what: Literal["manifest", "workspace"] = "manifest") -> str:
    """The schema as the text of its file."""
    schema = workspace_schema() if what == "workspace" else manifest_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(text("workspace" if sys.argv[1:] == ["workspace"] else "manifest"), end="")
