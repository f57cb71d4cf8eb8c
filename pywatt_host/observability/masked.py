"""Masking of whole documents. What a secret looks like is the matter of `secrets/masking`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def masked_document(value: Any, mask: Callable[[str], str], mask_bytes: Callable[[bytes], bytes] | None = None) -> Any:
    """Return a JSON document with every text in it masked, the names of members included."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, bytes) and mask_bytes is not None:
        return mask_bytes(value)
    if isinstance(value, dict):
        return {mask(str(name)): masked_document(item, mask, mask_bytes) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_document(item, mask, mask_bytes) for item in value]
    return value
