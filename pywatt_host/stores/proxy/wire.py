"""The wire form of the operations on databases and caches, in JSON: values that JSON does not have, rows, and errors.

A value of such a type is `{"$type": NAME, "value": ...}`: `bytes` (base64, RFC 4648), `decimal`, `datetime`, `date`,
`time` (ISO 8601), `timedelta` (seconds), `uuid`, `int` (beyond 64 bits) and `float` (not finite) as text, `json` for a
mapping or a list. Rows are `{"columns": [...], "rows": [[...]]}`. An error is `CODE: text`; see StoreError.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from math import isfinite
from typing import Any
from uuid import UUID

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.row import Row, columns_of
from pywatt_host.stores.databases.statement import Arguments

CODES = frozenset(
    (
        "unavailable", "timeout", "exhausted", "authentication", "integrity", "conflict", "full", "read_only",
        "statement", "arguments", "connection",
    )
)  # fmt: skip
_TYPE = "$type"
_INT_LIMIT = 2**63  # larger integers are sent as text

# The order counts: a datetime is a date too.
_PACKERS: tuple[tuple[type[Any], str, Callable[[Any], Any]], ...] = (
    (bytes, "bytes", lambda value: b64encode(value).decode()),
    (Decimal, "decimal", str),
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (timedelta, "timedelta", timedelta.total_seconds),
    (UUID, "uuid", str),
)
_UNPACKERS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda value: b64decode(value, validate=True),
    "decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda value: timedelta(seconds=value),
    "uuid": UUID,
    "int": int,
    "float": float,
    "json": lambda value: value,
}


def pack(value: Any, store: str) -> Any:
    """Return a value as JSON. Raises StoreError (`arguments`)."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_INT_LIMIT <= value < _INT_LIMIT else {_TYPE: "int", "value": str(value)}
    if isinstance(value, float):
        return value if isfinite(value) else {_TYPE: "float", "value": repr(value)}
    if isinstance(value, dict | list):
        return {_TYPE: "json", "value": value}
    for kind, name, pack_as in _PACKERS:
        if isinstance(value, kind):
            return {_TYPE: name, "value": pack_as(value)}
    raise StoreError(store, "arguments", f"a value of type {type(value).__name__} cannot be sent")


def unpack(value: Any, store: str) -> Any:
    """Return the value that `pack` made `value` of. Raises StoreError (`arguments`)."""
    if not isinstance(value, dict):
        return value
    kind = value.get(_TYPE)
    unpack_as = _UNPACKERS.get(kind) if isinstance(kind, str) else None
    if unpack_as is None:
        raise StoreError(store, "arguments", f"{str(kind)[:40]!r} is not a known type of values")
    try:
        return unpack_as(value.get("value"))
    except (ValueError, TypeError, ArithmeticError):
        raise StoreError(store, "arguments", f"a value is not a valid {kind}") from None


def pack_arguments(arguments: Arguments, store: str) -> dict[str, Any]:
    if isinstance(arguments, Mapping):
        return {"named": {str(name): pack(value, store) for name, value in arguments.items()}}
    return {"args": [pack(value, store) for value in arguments]}


def unpack_arguments(document: Mapping[str, Any], store: str) -> Arguments:
    named, args = document.get("named"), document.get("args")
    if isinstance(named, dict):
        return {name: unpack(value, store) for name, value in named.items()}
    return [unpack(value, store) for value in args] if isinstance(args, list) else []


def pack_rows(rows: Sequence[Row], store: str) -> dict[str, Any]:
    columns = list(rows[0]) if rows else []
    return {"columns": columns, "rows": [[pack(row[name], store) for name in columns] for row in rows]}


def unpack_rows(document: Any, store: str) -> list[Row]:
    """Return the rows in a response. Raises StoreError (`unavailable`) if it contains no valid rows."""
    rows, names = (document.get("rows"), document.get("columns", [])) if isinstance(document, dict) else (None, None)
    if (
        not isinstance(rows, list)
        or not isinstance(names, list)
        or not all(isinstance(row, list) and len(row) >= len(names) for row in rows)
    ):
        raise StoreError(store, "unavailable", "the orchestrator's answer is not a list of rows")
    columns = columns_of([str(name) for name in names])
    return [Row(columns, tuple(unpack(value, store) for value in row)) for row in rows]


def error_text(error: StoreError) -> str:
    return f"{error.code}: {error.message}"


def error_of(store: str, text: str) -> StoreError:
    """Return the error that the orchestrator sent. A text without a known code becomes the code `statement`."""
    code, colon, message = text.partition(": ")
    if colon and code in CODES:
        return StoreError(store, code, message)
    return StoreError(store, "statement", text)
