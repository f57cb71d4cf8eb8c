"""How a cache stores values: JSON as its text, bytes with a zero byte before them."""

from __future__ import annotations

import math
from typing import Any

import orjson

_BYTES_MARK = b"\x00"  # before a value of bytes; no JSON text begins with it
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


def encode(value: Any) -> bytes:
    """Return the bytes to store. Raises TypeError if JSON cannot represent the value."""
    if isinstance(value, bytes | bytearray | memoryview):
        return _BYTES_MARK + bytes(value)
    data = orjson.dumps(value, option=_OPTIONS)
    if b"null" in data and _has_special_float(value):  # it would come back as null
        raise TypeError("it contains NaN or an infinity")
    return data


def decode(data: bytes) -> Any:
    """Return the value that `encode` made `data` of. Raises ValueError."""
    return data[1:] if data.startswith(_BYTES_MARK) else orjson.loads(data)


def _has_special_float(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_special_float, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_special_float, value))
