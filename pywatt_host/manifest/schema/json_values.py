"""Single values in the published JSON schemas: what they must be, and the examples that an editor shows for a fault."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from pywatt_host.manifest.values import Format

Schema: TypeAlias = dict[str, Any]

INTERPOLATION = "interpolation"  # the name of the definition of a text with `${...}` in it
FREE_KEYS: Schema = {"^x-": {"description": "Yours: the host does not read it."}}

_ANNOTATIONS = ("title", "description", "default", "examples")
# Names that pydantic uses for the bounds of a number with a custom validator.
_BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}
_CONSTRAINTS = {"const", "enum", "pattern", "maxLength"}
_NUMBERS = {"integer": "an integer", "number": "a number", "boolean": "true or false", "string": "a string"}
_TEMPLATE: Schema = {"$ref": f"#/$defs/{INTERPOLATION}"}


def reference(name: str) -> Schema:
    """A reference to a definition of the same document."""
    return {"$ref": f"#/$defs/{name}"}


def bare(generated: Any) -> Schema:
    """The constraints of a value, without its annotations and without null."""
    if not isinstance(generated, dict):
        return {}
    constraints: Schema = {key: value for key, value in generated.items() if key not in _ANNOTATIONS}
    found = {_BOUNDS.get(key, key): value for key, value in constraints.items()}
    kinds = [bare(kind) for kind in found.get("anyOf", ()) if kind != {"type": "null"}]
    if kinds:
        found["anyOf"] = kinds
    return kinds[0] if len(kinds) == 1 and len(found) == 1 else found


def alternatives(schema: Schema) -> list[Schema]:
    """The kinds of value that a schema allows, each on its own. A list of types becomes several kinds."""
    if set(schema) == {"anyOf"}:
        return [kind for each in schema["anyOf"] for kind in alternatives(each)]
    if isinstance(schema.get("type"), list):
        return [_of_type(schema, each) for each in schema["type"]]
    return [schema]


def _of_type(schema: Schema, type: str) -> Schema:
    """The schema for one of its types, without the keywords that say nothing about that type."""
    others = set() if type == "string" else {"pattern", "minLength", "maxLength"}
    return {**{key: value for key, value in schema.items() if key not in others}, "type": type}


def explained(key: str, description: str, default: str | None) -> Schema:
    """The annotations of a key. `default` is None for a required key, and empty if there is nothing to say."""
    more = "\n\nRequired." if default is None else f"\n\nDefault: {default}" if default else ""
    return {"title": key.replace("_", " ").capitalize(), "description": description + more}


def scalar(generated: Schema, examples: Iterable[Any] = (), format: Format | None = None) -> Schema:
    """A scalar, or a string with `${...}` in its place.

    A value that a pattern or several kinds describe is tested with `if`. Where the test fails, `else` lists examples:
    editors then name these and the title, where a plain pattern would make them show the pattern.
    """
    kinds = [kind for kind in alternatives(generated) if kind.get("type") != "object"]
    if len(kinds) == 1 and _is_open_text(kinds[0]):
        return kinds[0]
    if any(_is_open_text(kind) for kind in kinds):  # it accepts a template already
        return {"anyOf": kinds}
    shown = _shown(kinds, examples)
    if not shown or (len(kinds) == 1 and "pattern" not in kinds[0]):
        return {"anyOf": [*kinds, _TEMPLATE]}
    return {"if": {"anyOf": [*kinds, _TEMPLATE]}, "else": {"title": _title(kinds, shown, format), "enum": shown}}


def mapping_of_scalars(kind: Schema, title: str) -> Schema:
    """A mapping that is one value of the model, such as a Unix socket, whose keys are all scalars."""
    required = kind["required"]
    return {
        "title": title,
        **kind,
        "properties": {key: _scalar_key(key, each, key in required) for key, each in kind["properties"].items()},
        "patternProperties": FREE_KEYS,
    }


def _scalar_key(key: str, each: Schema, required: bool) -> Schema:
    default = None if required else str(each.get("default", ""))
    said: Schema = {name: each[name] for name in ("default", "examples") if name in each}
    return {**explained(key, each["description"], default), **said, **scalar(bare(each), each["examples"])}


def words_of(value: Schema) -> list[Any]:
    """The words and bools that an editor should suggest for a value beside its examples."""
    shown = value.get("else", {})
    if "then" in value:  # the value has several forms
        shown = value["else"].get("else", value["else"])
    if {"type": "boolean"} in shown.get("anyOf", ()):
        return [True, False]
    return [each for each in shown.get("enum", ()) if isinstance(each, bool) or each in ("auto", "off")]


def _is_open_text(kind: Schema) -> bool:
    return kind.get("type") == "string" and not _CONSTRAINTS & set(kind)


def _shown(kinds: Sequence[Schema], examples: Iterable[Any]) -> list[Any]:
    """The values that an editor names where a value is at fault: the words of the kinds, and examples."""
    words = [word for kind in kinds for word in ([kind["const"]] if "const" in kind else kind.get("enum", ()))]
    if any(kind.get("type") == "boolean" for kind in kinds):
        words += [True, False]
    given = [each for each in examples if isinstance(each, str | int | float) and "${" not in str(each)]
    unique = {json.dumps(each): each for each in [*given, *words]}
    return list(unique.values()) if given or len(words) > 1 else []


def _title(kinds: Sequence[Schema], shown: Sequence[Any], format: Format | None) -> str:
    """What the value is, in words: "a duration such as 5s, or off"."""
    words = [kind["const"] for kind in kinds if "const" in kind]
    names = [_NUMBERS[kind["type"]] for kind in kinds if kind.get("type") in _NUMBERS and "const" not in kind]
    name = format.name if format is not None else " or ".join(names)
    if not name or (format is None and any("enum" in kind for kind in kinds)):
        return ""
    example = next((each for each in shown if each not in words and not isinstance(each, bool)), None)
    such = f" such as {example}" if example is not None else ""
    ends = "".join(f", or {word}" for word in words if format is None or str(word) not in format.name)
    return f"{name}{such}{ends}"
