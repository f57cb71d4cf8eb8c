"""From a manifest to plain data, in the forms of a manifest file. Loading the data gives an equal manifest."""

from __future__ import annotations

import re
from typing import Any

from pywatt_host.manifest.model import AutoEndpoints, Manifest
from pywatt_host.manifest.model.base import complete
from pywatt_host.manifest.model.tls import ListenOptions
from pywatt_host.manifest.schema.shape import Choice, DictShape, Leaf, ListShape, SectionShape, Shape, manifest_shape
from pywatt_host.manifest.values import SecretTemplate

# If these keys are omitted, the value of `server` applies. `off` is a value, not an omission.
_INHERITED = ("timeout", "body")


def dump(manifest: Manifest, *, all: bool = True, masked: bool = False, escaped: bool = True) -> dict[str, Any]:
    """Convert a manifest to data that JSON can represent: with every default (`all`), or only the given keys.

    `masked`: secrets in plain text become ***. Use `escaped=False` for `Source.of_data`, whose texts are not
    interpolated: a literal `${` is not escaped, and a text that refers to secrets stays a SecretTemplate.
    """
    server = manifest.server
    tls = [each.tls for each in server.declared_tls()]
    listeners = [each for each in server.listeners if isinstance(each, ListenOptions)]
    for section in (manifest.secrets, manifest.channels, server.workers, *listeners, *tls):
        complete(type(section))  # a section without a validator has no serializer either
    data: dict[str, Any] = manifest.model_dump(by_alias=True, exclude_unset=not all)
    endpoints = manifest.endpoints
    declared = endpoints.rules if isinstance(endpoints, AutoEndpoints) else endpoints
    written = data.get("endpoints", [])
    for endpoint, fields in zip(
        declared, written.get("rules", []) if isinstance(written, dict) else written, strict=False
    ):
        for name in _INHERITED:
            if name not in endpoint.model_fields_set:
                fields.pop(name, None)
    written_out: dict[str, Any] = _written(data, manifest_shape(), masked, escaped)
    return written_out


def _written(value: Any, shape: Shape, masked: bool, escaped: bool) -> Any:
    """Convert one value. Nulls in sections are removed, because there they mean an omitted key."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(shape, Choice):
        shape = shape.of(value)
    if isinstance(value, dict):
        return {
            key: _written(item, _below(shape, key), masked, escaped)
            for key, item in value.items()
            if item is not None or not isinstance(shape, SectionShape)
        }
    if isinstance(value, list):
        item_shape = shape.item if isinstance(shape, ListShape) else shape
        return [_written(item, item_shape, masked, escaped) for item in value]
    if isinstance(value, SecretTemplate):
        return str(value) if escaped else value
    if not isinstance(value, str):
        return value
    if masked and isinstance(shape, Leaf) and shape.sensitive is not None:
        value = shape.sensitive.shown(value)
    if not escaped:
        return str(value)
    # A literal `${` becomes `$${`, because the data may be loaded from a file again.
    text = str(value).replace("${", "$${")
    for name in shape.placeholders if isinstance(shape, Leaf) else ():
        text = re.sub(rf"(?<!\$)\$(\$\{{{name}\}})", r"\1", text)
    return text


def _below(shape: Shape, key: str) -> Shape:
    if isinstance(shape, SectionShape):
        return shape.keys[key]
    return shape.value if isinstance(shape, DictShape) else shape
