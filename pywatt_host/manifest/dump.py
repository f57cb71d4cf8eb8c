"""Manifest to plain data, in the forms that a file writes: what it gives loads again to an equal manifest."""

from __future__ import annotations

from typing import Any

from pywatt_host.manifest.model import AutoEndpoints, Manifest

# These inherit from `server` when they are left out; `off` is a value of its own.
_INHERITED = ("timeout", "body")
# What stands below these is the application's own.
_FREE = ("config", "args")


def dump(manifest: Manifest, *, all: bool = True) -> dict[str, Any]:
    """The manifest as JSON-able data, with every default (`all`), or only with what was given."""
    data: dict[str, Any] = manifest.model_dump(mode="json", by_alias=True, exclude_unset=not all)
    endpoints = manifest.endpoints
    declared = endpoints.rules if isinstance(endpoints, AutoEndpoints) else endpoints
    written = data.get("endpoints", [])
    for endpoint, fields in zip(
        declared, written.get("rules", []) if isinstance(written, dict) else written, strict=False
    ):
        for name in _INHERITED:
            if name not in endpoint.model_fields_set:
                fields.pop(name, None)
    cleaned: dict[str, Any] = _cleaned(data)
    return cleaned


def _cleaned(value: Any, key: str = "") -> Any:
    """Without nulls, which mean a key that was left out, but for the free-form values; texts as plain ones."""
    if isinstance(value, dict):
        free = key in _FREE
        return {name: _cleaned(item, key if free else name) for name, item in value.items() if free or item is not None}
    if isinstance(value, list):
        return [_cleaned(item, key) for item in value]
    # A literal `${` is written as `$${`, since what is dumped may be read from a file again.
    return str(value).replace("${", "$${") if isinstance(value, str) else value
