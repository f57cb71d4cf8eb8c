"""The keywords of JSON Schema 2020-12, and where a schema has further schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pywatt_host.manifest.problems import KeyPath

_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    *("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"),
    *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
)
KEYWORDS = frozenset((*_MAPS, *_LISTS, *_SINGLE)) | frozenset(
    (
        *("$schema", "$id", "$ref", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "$comment"),
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "maxContains", "minContains"),
        *("maxProperties", "minProperties", "required", "dependentRequired", "format", "title", "description"),
        *("default", "deprecated", "readOnly", "writeOnly", "examples", "contentEncoding", "contentMediaType"),
    )
)


def parts(schema: Any, path: KeyPath) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The schema and every schema in it, with their paths."""
    if not isinstance(schema, dict):
        return
    yield path, schema
    for key, below in schema.items():
        if key in _MAPS and isinstance(below, dict):
            for name, each in below.items():
                yield from parts(each, (*path, key, name))
        elif key in _LISTS and isinstance(below, list):
            for number, each in enumerate(below):
                yield from parts(each, (*path, key, number))
        elif key in _SINGLE:
            yield from parts(below, (*path, key))


def pointed(data: Any, pointer: str) -> tuple[KeyPath, Any]:
    """What a JSON pointer leads to in a document, with its path. None where there is nothing."""
    path: KeyPath = ()
    for name in pointer.split("/")[1:]:
        name = name.replace("~1", "/").replace("~0", "~")
        if isinstance(data, list) and name.isdecimal() and name.isascii() and len(name) < 10 and int(name) < len(data):
            path, data = (*path, int(name)), data[int(name)]
        elif isinstance(data, dict) and name in data:
            path, data = (*path, name), data[name]
        else:
            return path, None
    return path, data
