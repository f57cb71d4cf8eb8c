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
            yield below, _default(value, key in section.get("required", ()))
            if key == "profiles":  # partial manifests: the same keys again
                continue
            yield from _keys(value, schema, below)
            for items in _lists(value, schema):
                entry = below if any(_same(items, each) for each in value.get("anyOf", ())) else f"{below}[]"
                yield from _keys(items, schema, entry)
            for named in _named(value, schema):
                yield from _keys(named, schema, f"{below}.*")


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]] if reference else node
    return found


def _alternatives(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    node = _resolved(node, schema)
    for each in [*node.get("anyOf", ()), *(node[kind] for kind in ("then", "else") if kind in node)]:
        yield from _alternatives(each, schema)
    if "if" not in node:
        yield node


def _mappings(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (each for each in _alternatives(node, schema) if "properties" in each)


def _lists(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (each["items"] for each in _alternatives(node, schema) if isinstance(each.get("items"), dict))


def _named(node: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a mapping with names of the user's own has below each of them."""
    values = (each.get("additionalProperties") for each in _alternatives(node, schema) if "properties" not in each)
    return (value for value in values if isinstance(value, dict))


def _same(items: dict[str, Any], alternative: dict[str, Any]) -> bool:
    """Whether the items of a list may stand alone in its place."""
    return alternative in (items, *items.get("anyOf", ()))


def _default(value: dict[str, Any], required: bool) -> str:
    if required:
        return REQUIRED
    if "default" in value:
        return f"`{json.dumps(value['default'])}`" if not isinstance(value["default"], str) else f"`{value['default']}`"
    said = value.get("x-default", "left out")
    return NONE if said == "left out" else f"`{said}`"
