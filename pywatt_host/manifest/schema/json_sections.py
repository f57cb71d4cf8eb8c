"""Sections in the published JSON schemas: a definition for each, and one for each of its kinds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from pywatt_host.manifest.model import Section
from pywatt_host.manifest.model.base import Kind
from pywatt_host.manifest.schema.json_values import (
    FREE_KEYS,
    Schema,
    alternatives,
    bare,
    explained,
    mapping_of_scalars,
    reference,
    scalar,
    words_of,
)
from pywatt_host.manifest.schema.shape import (
    Choice,
    DictShape,
    Free,
    Leaf,
    ListShape,
    SectionShape,
    Shape,
    text_shape,
)

_SECRET_COMMENT = "may contain ${secret:NAME}"
_ABBREVIATIONS = {"tls": "TLS", "http": "HTTP", "ipc": "IPC", "tcp": "TCP", "nats": "NATS", "cors": "CORS"}


def required_keys(shape: SectionShape) -> list[str]:
    return [info.alias or key for key, info in shape.model.model_fields.items() if info.is_required()]


class Writer:
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

    def closed(
        self, properties: dict[str, Schema], title: str, description: str, required: Iterable[str] = ()
    ) -> Schema:
        """The schema of a mapping with exactly these keys."""
        needed = [key for key in required if key in properties]
        return {
            **({"title": title} if title else {}),
            "description": description,
            "type": "object",
            "properties": properties,
            "patternProperties": FREE_KEYS,
            "additionalProperties": False,
            **({"required": needed} if needed else {}),
        }

    def properties(self, shape: SectionShape, *, partial: bool) -> dict[str, Schema]:
        """The schemas of a section's keys: their annotations for editors, and their values."""
        generated = self._keys_of(shape.model)
        fields = {info.alias or name: info for name, info in shape.model.model_fields.items()}
        written = {}
        for key, below in shape.keys.items():
            annotations = _annotations(key, fields[key], below)
            known = [*annotations["examples"], *([annotations["default"]] if "default" in annotations else [])]
            value = self._value(below, bare(generated[key]), known, partial=partial)
            said = annotations["examples"]
            said += [word for word in words_of(value) if not any(word is each for each in said) and word not in said]
            written[key] = {**value, **annotations}  # the annotations of the key win over those of its value
        return written

    # Sections -------------------------------------------------------------------------------------------------------

    def _section(self, shape: SectionShape, *, partial: bool) -> Schema:
        model = shape.model
        partial = partial and _needs_keys(shape)
        title = _words(model.__name__)
        name = title.lower().replace(" ", "-") + ("-in-a-profile" if partial else "")
        if name in self.definitions:
            return reference(name)
        self.definitions[name] = {}  # reserves its place before the sections in it
        properties = self.properties(shape, partial=partial)
        if partial:
            whole = self._section(shape, partial=False)["$ref"].rpartition("/")[2]
            properties = self._shared(properties, whole if model.kinds is None else f"{whole}-keys")
        required = [] if partial else required_keys(shape)
        together: dict[str, list[str]] = {}
        for key, other in () if partial else model.together:
            together.setdefault(key, []).append(other)
        more: Schema = {"dependentRequired": together} if together else {}
        if model.kinds is None:
            self.definitions[name] = {**self.closed(properties, title, _sentence(model), required), **more}
            return reference(name)

        self.definitions[f"{name}-keys"] = {"type": "object", "properties": properties}
        properties = self._shared(properties, f"{name}-keys")

        def define(suffix: str, left_out: frozenset[str], needed: Iterable[str]) -> Schema:
            kept = {key: value for key, value in properties.items() if key not in left_out}
            wanted = [] if partial else [*required, *(key for key in needed if key not in required)]
            body = self.closed(kept, f"{title} ({suffix})" if suffix else title, _sentence(model), wanted)
            shown = f"{name}-{suffix}" if suffix else f"{name}-of-any-kind"
            if together.keys() & kept.keys():
                body["dependentRequired"] = {key: each for key, each in together.items() if key in kept}
            self.definitions[shown] = body
            return reference(shown)

        kinds = model.kinds
        chain = define("", kinds.without, kinds.required)
        for kind in reversed(kinds.kinds):
            chain = {"if": _condition(kind), "then": define(kind.name, kind.without, kind.required), "else": chain}
        presence = {kind.key for kind in kinds.kinds if kind.value is None and kind.pattern is None} - kinds.without
        told = dict.fromkeys(kind.key for kind in kinds.kinds if kind.key not in presence)
        self.definitions[name] = {
            "title": title,
            "description": _sentence(model),
            "type": "object",
            # Editors suggest these in a new mapping, whichever kind they assume.
            **({"properties": {key: properties[key] for key in told}} if told else {}),
            **chain,
        }
        return reference(name)

    def _shared(self, properties: dict[str, Schema], name: str) -> dict[str, Schema]:
        """The same keys, with a reference in place of each that is equal in another definition."""
        other = self.definitions[name]["properties"]
        return {
            key: reference(f"{name}/properties/{key}") if other.get(key) == value else value
            for key, value in properties.items()
        }

    def _dict(self, shape: DictShape, generated: Schema, known: list[Any], *, partial: bool) -> Schema:
        schema: Schema = {"type": "object"}
        schema |= {key: generated[key] for key in ("minProperties", "maxProperties") if key in generated}
        values = generated.get("additionalProperties", True)
        names = dict(generated.get("propertyNames", {}))
        for pattern, value in generated.get("patternProperties", {}).items():
            names |= {"type": "string", "pattern": pattern}
            values = value
        if names:
            schema["propertyNames"] = {"type": "string", **names}
        if isinstance(shape.value, Free):
            return schema
        below = [item for each in known if isinstance(each, dict) for item in each.values()]
        named = shape.value.model.kinds if isinstance(shape.value, SectionShape) else None
        schema["additionalProperties"] = self._value(shape.value, bare(values), below, partial=partial)
        if named is not None and named.named and isinstance(shape.value, SectionShape):
            schema["properties"] = {
                kind.name: self._of_its_name(shape.value, kind, partial=partial) for kind in named.kinds
            }
        return schema

    def _of_its_name(self, shape: SectionShape, kind: Kind, *, partial: bool) -> Schema:
        """A section whose name says its kind, unless it has the key that does."""
        whole = self._section(shape, partial=partial)
        return {
            "type": "object",
            "title": f"{_words(shape.model.__name__)} ({kind.name})",
            "description": f"The {kind.key} is {kind.name}, unless the key `{kind.key}` says otherwise.",
            "if": {"properties": {kind.key: True}, "required": [kind.key]},
            "then": whole,
            "else": reference(f"{whole['$ref'].rpartition('/')[2]}-{kind.name}"),
        }

    # Values ---------------------------------------------------------------------------------------------------------

    def _value(self, shape: Shape, generated: Schema, known: list[Any], *, partial: bool) -> Schema:
        return _joined(self._forms(shape, generated, known, partial=partial))

    def _forms(self, shape: Shape, generated: Schema, known: list[Any], *, partial: bool) -> dict[str, Schema]:
        """The schemas of a value that is a mapping (`object`), a list (`array`) or a single value (`scalar`); one
        without a type, if it may be anything."""
        if isinstance(shape, Free):
            return {"": {}}
        if isinstance(shape, Leaf):
            return self._leaf(shape, generated, known)
        if isinstance(shape, DictShape):
            found = {"object": self._dict(shape, generated, known, partial=partial)}
            return {**found, "array": self._names(shape, generated)} if shape.names else found
        if isinstance(shape, ListShape):
            return self._list(shape, generated, known)
        if isinstance(shape, Choice):
            return self._choice(shape, generated, known, partial=partial)
        return self._short(shape, known, partial=partial)

    def _leaf(self, shape: Leaf, generated: Schema, known: list[Any]) -> dict[str, Schema]:
        secret: Schema = {"$comment": _SECRET_COMMENT} if shape.secret else {}
        forms = {"scalar": scalar(generated, known, shape.format) | secret}
        for kind in alternatives(generated) if shape.keys else ():
            if kind.get("type") == "object":
                forms["object"] = mapping_of_scalars(kind, "a mapping")
        return forms

    def _list(self, shape: ListShape, generated: Schema, known: list[Any]) -> dict[str, Schema]:
        below = [item for each in known for item in (each if isinstance(each, list) else [each])]
        forms = self._forms(shape.item, bare(generated.get("items", {})), below, partial=False)
        array: Schema = {"type": "array", "items": _joined(forms)}
        array |= {key: generated[key] for key in ("minItems", "maxItems") if key in generated}
        return {**forms, "array": array} if shape.one else {"array": array}

    def _names(self, shape: DictShape, generated: Schema) -> Schema:
        """The list of names that a mapping may be written as."""
        name = dict(generated.get("propertyNames", {}))
        for pattern in generated.get("patternProperties", {}):
            name["pattern"] = pattern
        return {"type": "array", "items": scalar({"type": "string", **name}, (), shape.key.format), "uniqueItems": True}

    def _choice(self, shape: Choice, generated: Schema, known: list[Any], *, partial: bool) -> dict[str, Schema]:
        shapes = shape.shapes
        if "folder" in shapes:
            return {"object": self._mount(shape)}
        if shape.short is not None:  # a section, or a list
            section, entries = shapes["auto"], shapes["list"]
            assert isinstance(section, SectionShape)
            named = SectionShape(section.model, section.keys, shape.short)
            return {
                **self._short(named, known, partial=partial),
                **self._forms(entries, {}, known, partial=False),
            }
        forms: dict[str, Schema] = {}
        kinds = generated.get("oneOf") or [{} for _ in shapes]
        for below, kind in zip(shapes.values(), kinds, strict=True):
            for name, each in self._forms(below, bare(kind), known, partial=False).items():
                first = forms.get(name)
                forms[name] = each if first is None else _first_by_its_key(first, each)
        return forms

    def _mount(self, shape: Choice) -> Schema:
        """Two kinds of mount, told apart by one key, so that editors report faults of the kind that is meant."""
        folder, app = shape.shapes["folder"], shape.shapes["app"]
        assert isinstance(folder, SectionShape)
        assert isinstance(app, SectionShape)
        key = "directory"
        return {
            "title": "mount",
            "type": "object",
            # Editors suggest both keys in a new mapping, whichever kind they assume.
            "properties": {
                "import_path": self.properties(app, partial=False)["import_path"],
                key: self.properties(folder, partial=False)[key],
            },
            "if": _condition(Kind(key)),
            "then": self._section(folder, partial=False),
            "else": self._section(app, partial=False),
        }

    def _short(self, section: SectionShape, known: list[Any], *, partial: bool) -> dict[str, Schema]:
        """A section and its short forms."""
        forms = {"object": self._section(section, partial=partial)}
        short, generated = section.short, self._keys_of(section.model)
        if short is None:
            return forms
        scalars: list[Schema] = [{"type": "boolean"}] if short.flag is not None else []
        below, secret = None, {}
        if short.text is not None:
            text = bare(generated[short.text])
            shape = section.keys[short.text]
            scalars += alternatives(bare(text["items"]) if isinstance(shape, ListShape) else text)
            below = text_shape(shape)
            secret = {"$comment": _SECRET_COMMENT} if below is not None and below.secret else {}
        if scalars:
            format = below.format if below is not None else None
            forms["scalar"] = scalar({"anyOf": scalars}, known, format) | secret
        if short.names is not None:
            mapping = section.keys[short.names]
            assert isinstance(mapping, DictShape)
            forms["array"] = self._names(mapping, bare(generated[short.names]))
        if short.items is not None:
            items = section.keys[short.items]
            assert isinstance(items, ListShape)
            forms["array"] = self._list(ListShape(items.item), bare(generated[short.items]), known)["array"]
        return forms


def _condition(kind: Kind) -> Schema:
    value: Any = True
    if kind.value is not None:
        value = {"const": kind.value}
    elif kind.pattern is not None:
        value = {"type": "string", "pattern": kind.pattern}
    return {"properties": {kind.key: value}, "required": [kind.key]}


def _joined(forms: Mapping[str, Schema]) -> Schema:
    """One schema of a value that has several forms. Its type decides which of them it has to fit."""
    rest = dict(forms)
    joined = rest.pop("object", None) or rest.pop("scalar", None) or rest.popitem()[1]
    if "scalar" in rest:
        joined = {"if": {"type": "object"}, "then": joined, "else": rest.pop("scalar")}
    if "array" in rest:
        joined = {"if": {"type": "array"}, "then": rest.pop("array"), "else": joined}
    return joined


def _first_by_its_key(first: Schema, other: Schema) -> Schema:
    """A mapping of the first kind if it has the required key of that kind, else of the other kind."""
    (key,) = first["required"]
    return {
        "type": "object",
        "properties": {key: first["properties"][key]},
        "if": _condition(Kind(key)),
        "then": first,
        "else": other,
    }


def _annotations(key: str, info: FieldInfo, shape: Shape) -> Schema:
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    description = info.description or ""
    if isinstance(shape, Leaf) and shape.secret:
        description += " The value may contain ${secret:NAME}."
    if info.is_required():
        annotations = explained(key, description, None)
    else:
        value = extra.get("default", _default(info, shape))
        shown = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        annotations = explained(key, description, shown)
        if value is not None and not (isinstance(value, str) and value.startswith("server.")):
            annotations["default"] = value
    annotations["examples"] = list(info.examples or ())
    return annotations


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


def _words(name: str) -> str:
    """The name of a class in words, for people: `server TLS`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower().replace("web socket", "websocket").split()
    return " ".join(_ABBREVIATIONS.get(word, word) for word in words)


def _needs_keys(shape: Shape) -> bool:
    """Whether the section, or a section reached from it without a list, requires a key."""
    if isinstance(shape, DictShape):
        return _needs_keys(shape.value)
    if isinstance(shape, Choice):
        return any(_needs_keys(each) for each in shape.shapes.values())
    if not isinstance(shape, SectionShape):
        return False
    model = shape.model
    return (
        any(info.is_required() for info in model.model_fields.values())
        or model.kinds is not None
        or bool(model.together)
        or any(_needs_keys(below) for below in shape.keys.values())
    )
