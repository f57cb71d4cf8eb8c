"""Masking of whole documents. What a secret looks like is the matter of `secrets/masking`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def masked_document(value: Any, mask: Callable[[str], str]) -> Any:
    """Return a JSON document with every text in it masked, the names of members included."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {mask(str(name)): masked_document(item, mask) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked_document(item, mask) for item in value]
    return value
