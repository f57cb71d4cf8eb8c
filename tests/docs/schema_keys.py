"""Every key of the published schema with its default, as the documents must show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.processes import ROOT

REQUIRED, NONE = "required", "none"


def schema_keys(name: str = "pywatt") -> dict[str, str]:
    """Path of each key, such as `server.limits.body`, `mounts[].directory` or `secrets.keys.*.required`, to its default
    as the tables write it: JSON in backticks, `required`, or `none` for a key whose absence says something by itself.

    `name` is that of the schema: pywatt or wattson.
    """
    schema = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return dict(_keys(schema, schema, ""))


def _keys(node: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for section in _mappings(node, schema):
        for key, value in section["properties"].items():
            below = f"{path}.{key}" if path else key
            value = _resolved(value, schema)
            yield below, _default(value)
            if key == "profiles":  # partial manifests: the same keys again
                continue
            yield from _keys(value, schema, below)
            for items in _lists(value, schema):
                entry = below if items == value.get("else") else f"{below}[]"  # one entry may stand alone
                yield from _keys(items, schema, entry)
            for named in _named(value, schema):
                yield from _keys(named, schema, f"{below}.*")


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while reference := node.get("$ref"):
        found: Any = schema
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        node = {**found, **{key: value for key, value in node.items() if key != "$ref"}}
    return node


def _alternatives(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    node = _resolved(node, schema)
    for each in [*node.get("anyOf", ()), *(node[kind] for kind in ("then", "else") if kind in node)]:
        yield from _alternatives(each, schema)
    if "if" not in node:
        yield node


def _mappings(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    found = (each for each in _alternatives(node, schema) if "properties" in each)
    return (each for each in found if not isinstance(each["additionalProperties"], dict))  # names of the user's own


def _lists(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (each["items"] for each in _alternatives(node, schema) if isinstance(each.get("items"), dict))


def _named(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a mapping with names of the user's own has below each of them."""
    values = (each.get("additionalProperties") for each in _alternatives(node, schema))
    return (value for value in values if isinstance(value, dict))


def _default(value: dict[str, Any]) -> str:
    text, _, said = value["description"].rpartition("\n\nDefault: ")
    if value["description"].endswith("\n\nRequired."):
        return REQUIRED
    if "default" in value:
        return f"`{json.dumps(value['default'])}`" if not isinstance(value["default"], str) else f"`{value['default']}`"
    return f"`{said}`" if text else NONE
