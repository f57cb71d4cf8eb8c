"""Faults that a JSON Schema finds, in the words and at the places of all other faults of a manifest.

The messages of jsonschema are not used: they have the values in them, and a value from the environment may be a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pywatt_host.manifest.problems import KeyPath, near_miss, quote
from pywatt_host.manifest.schema.json_formats import NAMES
from pywatt_host.manifest.schema.normalize import YAML_1_1_BOOLS
from pywatt_host.manifest.yaml.node import Node

_MAX_HINT = 120  # characters of a description
_MAX_LISTED = 12
_TYPES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a bool",
    "object": "a mapping",
    "array": "a list",
    "null": "null",
}


class SchemaError(Protocol):
    """What this module reads of an error of jsonschema."""

    @property
    def absolute_path(self) -> Sequence[str | int]: ...
    @property
    def schema_path(self) -> Sequence[str | int]: ...
    @property
    def absolute_schema_path(self) -> Sequence[str | int]: ...
    @property
    def context(self) -> Sequence[SchemaError]: ...

    validator: Any
    validator_value: Any
    instance: Any
    schema: Any


Said: TypeAlias = tuple[str, str]  # message and hint


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `path` leads to the value, or to the key that the fault is about (`is_key`: the key is there). `meant`
    is the path of the key that an unknown one probably stands for, `missing` says that a key is not there."""

    path: KeyPath
    message: str
    hint: str = ""
    is_key: bool = False
    meant: KeyPath | None = None
    missing: bool = False


def faults_of(errors: Sequence[SchemaError], node_at: Callable[[KeyPath], Node | None]) -> Iterator[Fault]:
    """The faults of these errors. `node_at` gives the node of a path. A key that is missing because it is misspelled is
    one fault, not two."""
    found = [fault for error in errors for fault in _faults(error, node_at)]
    meant = {fault.meant for fault in found if fault.meant is not None}
    yield from (fault for fault in found if not (fault.missing and fault.path in meant))


def leaves(error: SchemaError) -> Iterator[SchemaError]:
    """The error and all errors in its branches."""
    yield error
    for each in error.context or ():
        yield from leaves(each)


def _faults(error: SchemaError, node_at: Callable[[KeyPath], Node | None]) -> Iterator[Fault]:
    path = tuple(error.absolute_path)
    if error.validator in ("anyOf", "oneOf") and error.context:
        branch = _meant(error)
        if branch:
            for each in branch:
                yield from _faults(each, node_at)
            return
    node = node_at(path)
    key = getattr(error, "key", None)
    if isinstance(error.instance, str) and _is_about_name(error):
        message, hint = _explained(error, None, f"the key {quote(error.instance)}")
        yield Fault((*path, error.instance), message, hint, is_key=True)
    elif isinstance(key, str):
        yield _of_key(error, key, path)
    elif (forbidden := _forbidden_key(error)) is not None:
        yield Fault((*path, forbidden), "this key is not allowed here", _description(error) or "remove it", is_key=True)
    else:
        shown = node.shown() if node is not None else quote(error.instance)
        yield Fault(path, *_explained(error, node, shown))


_WITH_NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")


def _is_about_name(error: SchemaError) -> bool:
    """Whether the error is one of `propertyNames`: its value is the name of a key."""
    parts = iter(error.absolute_schema_path)
    for part in parts:
        if part in _WITH_NAMES:
            next(parts, None)
        elif part == "propertyNames":
            return True
    return False


def _forbidden_key(error: SchemaError) -> str | None:
    """The key that `not: {required: [KEY]}` forbids."""
    refused = error.validator_value
    if error.validator != "not" or not isinstance(refused, dict) or set(refused) != {"required"}:
        return None
    names = refused["required"]
    return str(names[0]) if len(names) == 1 else None


_UNKNOWN = ("additionalProperties", "unevaluatedProperties")


def _of_key(error: SchemaError, key: str, path: KeyPath) -> Fault:
    place = (*path, key)
    if error.validator in _UNKNOWN:
        known = list(error.schema.get("properties", ())) if isinstance(error.schema, dict) else []
        near = near_miss(key, known)
        if near is not None:
            return Fault(place, "unknown key", f'did you mean "{near}"?', is_key=True, meant=(*path, near))
        listed = ", ".join(known[:_MAX_LISTED]) + (", ..." if len(known) > _MAX_LISTED else "")
        return Fault(place, "unknown key", f"known keys: {listed}" if known else "remove it", is_key=True)
    if error.validator == "dependentRequired":
        needing = [name for name, others in error.validator_value.items() if name in error.instance and key in others]
        return Fault(place, f"this key is required, because {needing[0]} is given", "add it", missing=True)
    return Fault(place, "this key is required", _description(error, key) or "add it", missing=True)


def _description(error: SchemaError, key: str = "") -> str:
    """The description that the schema has for the value, or for one of its keys."""
    schema = error.schema if isinstance(error.schema, dict) else {}
    if key:
        schema = schema.get("properties", {}).get(key, {})
    text = schema.get("description", "") if isinstance(schema, dict) else ""
    return " ".join(text.split())[:_MAX_HINT].rstrip(". ") if isinstance(text, str) else ""


def _meant(error: SchemaError) -> list[SchemaError]:
    """The errors of the branch that was probably meant; none if no branch is closer than the others."""
    branches: dict[Any, list[SchemaError]] = {}
    for each in error.context:
        branches.setdefault(each.schema_path[0], []).append(each)
    depth = len(error.absolute_path)

    def distance(errors: list[SchemaError]) -> tuple[bool, int]:
        of_type = any(each.validator == "type" and len(each.absolute_path) == depth for each in errors)
        # A key with one allowed value tells the branches apart.
        told = sum(each.validator in ("const", "enum") and len(each.absolute_path) == depth + 1 for each in errors)
        return of_type, told

    ranked = sorted(branches.values(), key=distance)
    if distance(ranked[0])[0] or (len(ranked) > 1 and distance(ranked[0]) == distance(ranked[1])):
        return []
    return ranked[0]


def _explained(error: SchemaError, node: Node | None, shown: str) -> Said:
    explain = _EXPLAIN.get(error.validator)
    if explain is None:
        return f"{shown} is not allowed here", _description(error)
    return explain(error, node, shown)


def _type(error: SchemaError, node: Node | None, shown: str) -> Said:
    names = [error.validator_value] if isinstance(error.validator_value, str) else list(error.validator_value)
    wanted = " or ".join(_TYPES.get(name, str(name)) for name in names)
    value = error.instance
    hint = ""
    if node is None or not node.masked:
        if "string" in names and isinstance(value, int | float):
            source = node.text if node is not None and node.text is not None else quote(value)
            return f"{source} is not {wanted}", f'put it in quotes: "{source}"'
        if isinstance(value, str) and "boolean" in names:
            hint = f"write {YAML_1_1_BOOLS.get(value, 'true or false')}, without quotes"
        elif isinstance(value, str) and value.strip("+-").replace(".", "", 1).isdecimal():
            hint = f"write {value} without quotes"
    return f"{shown} is not {wanted}", hint or _description(error)


def _choices(values: Sequence[Any]) -> str:
    listed = [value if isinstance(value, str) and value else quote(value) for value in values[:_MAX_LISTED]]
    return ", ".join(str(each) for each in listed) + (", ..." if len(values) > _MAX_LISTED else "")


def _enum(error: SchemaError, node: Node | None, shown: str) -> Said:
    words = [each for each in error.validator_value if isinstance(each, str)]
    visible = isinstance(error.instance, str) and (node is None or not node.masked)
    meant = near_miss(error.instance, words) if visible else None
    hint = f'did you mean "{meant}"?' if meant else ""
    return f"{shown} is not one of {_choices(error.validator_value)}", hint


def _const(error: SchemaError, node: Node | None, shown: str) -> Said:
    return f"{shown} is not a supported value", f"write {_choices([error.validator_value])}"


def _any_of(error: SchemaError, node: Node | None, shown: str) -> Said:
    depth = len(error.absolute_path)
    types = [
        name
        for each in error.context
        if each.validator == "type" and len(each.absolute_path) == depth
        for name in ([each.validator_value] if isinstance(each.validator_value, str) else each.validator_value)
    ]
    words = [
        word
        for each in error.context
        if each.validator in ("const", "enum") and len(each.absolute_path) == depth
        for word in ([each.validator_value] if each.validator == "const" else each.validator_value)
    ]
    wanted = [_TYPES.get(name, str(name)) for name in dict.fromkeys(types)]
    if words:
        texts = [each for each in words if isinstance(each, str)]
        visible = isinstance(error.instance, str) and (node is None or not node.masked)
        meant = near_miss(error.instance, texts) if visible else None
        also = f", or {' or '.join(wanted)}" if wanted else ""
        return f"{shown} is not one of {_choices(words)}{also}", f'did you mean "{meant}"?' if meant else ""
    if wanted:
        return f"{shown} is not {' or '.join(wanted)}", _description(error)
    if not error.context:
        return f"{shown} fits more than one of the forms of which it may fit one", _description(error)
    return f"{shown} fits none of the forms that the schema allows", _description(error)


def _not(error: SchemaError, node: Node | None, shown: str) -> Said:
    refused = error.validator_value
    names = refused.get("required", ()) if isinstance(refused, dict) else ()
    if names and len(refused) == 1:
        return f"the keys {', '.join(map(str, names[:_MAX_LISTED]))} are not allowed together", "remove one of them"
    if isinstance(error.instance, dict | list):
        what = "the mapping" if isinstance(error.instance, dict) else "the list"
        return f"{what} has a form that the schema excludes with `not`", _description(error)
    return f"{shown} is excluded by the schema", _description(error) or "write another value"


def _bound(words: str, limit: str) -> Callable[[SchemaError, Node | None, str], Said]:
    return lambda error, node, shown: (f"{shown} is too {words}", f"{limit} {quote(error.validator_value)}")


def _length(limit: str, noun: str, hint: str) -> Callable[[SchemaError, Node | None, str], Said]:
    def explain(error: SchemaError, node: Node | None, shown: str) -> Said:
        number = error.validator_value
        text = shown if _is_about_name(error) else "the value"
        what = {"character": text, "entry": "the list", "key": "the mapping"}[noun]
        if limit == "fewer" and not error.instance:
            return f"{what} is empty", f"{hint}: at least {number} {_plural(noun, number)}"
        return f"{what} has {limit} than {number} {_plural(noun, number)}", hint

    return explain


def _plural(noun: str, number: float) -> str:
    return noun if number == 1 else {"entry": "entries"}.get(noun, f"{noun}s")


def _pattern(error: SchemaError, node: Node | None, shown: str) -> Said:
    if getattr(error, "too_long", False):
        return f"{shown} is too long for the pattern {str(error.validator_value)[:100]}", "shorten it"
    return f"{shown} does not match the pattern {str(error.validator_value)[:100]}", _description(error)


def _format(error: SchemaError, node: Node | None, shown: str) -> Said:
    return f"{shown} is not {NAMES.get(error.validator_value, error.validator_value)}", _description(error)


_EXPLAIN: dict[Any, Callable[[SchemaError, Node | None, str], Said]] = {
    "type": _type,
    "enum": _enum,
    "const": _const,
    **dict.fromkeys(("anyOf", "oneOf"), _any_of),
    "minimum": _bound("small", "write at least"),
    "maximum": _bound("large", "write at most"),
    "exclusiveMinimum": _bound("small", "write more than"),
    "exclusiveMaximum": _bound("large", "write less than"),
    "multipleOf": lambda error, node, shown: (f"{shown} is not a multiple of {quote(error.validator_value)}", ""),
    "minLength": _length("fewer", "character", "write more"),
    "maxLength": _length("more", "character", "shorten it"),
    "minItems": _length("fewer", "entry", "add more"),
    "maxItems": _length("more", "entry", "remove some"),
    "minProperties": _length("fewer", "key", "add more"),
    "maxProperties": _length("more", "key", "remove some"),
    "uniqueItems": lambda error, node, shown: ("the list has the same entry twice", "remove one of them"),
    "not": _not,
    "pattern": _pattern,
    "format": _format,
    **dict.fromkeys(
        ("contains", "minContains", "maxContains"),
        lambda error, node, shown: ("the list has not the entries that the schema asks for", _description(error)),
    ),
    "unevaluatedItems": lambda error, node, shown: ("the list has entries that are not allowed", "remove them"),
}
