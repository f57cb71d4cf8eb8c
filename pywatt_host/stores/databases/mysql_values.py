"""The values of MySQL and MariaDB: how they are written in a statement, and how the rows of a result are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
import pymysql  # type: ignore[import-untyped]
from pymysql.constants import FIELD_TYPE  # type: ignore[import-untyped]
from pymysql.converters import conversions, convert_datetime  # type: ignore[import-untyped]

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.row import Row, columns_of

_PLAIN = (str, int, float, Decimal, date, datetime, time, timedelta, type(None))


def literal(value: Any, escape: Callable[[Any], Any], store: str) -> str:
    """Return a value as SQL text. A time with a zone becomes UTC; UUIDs and JSON become text.

    `escape` is that of the driver. Raises StoreError (`arguments`).
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return f"_binary X'{bytes(value).hex()}'"
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    elif isinstance(value, UUID):
        value = str(value)
    elif isinstance(value, dict | list):
        value = orjson.dumps(value).decode()
    if not isinstance(value, _PLAIN):
        raise StoreError(store, "arguments", f"a value of type {type(value).__name__} cannot be stored")
    try:
        return str(escape(value))
    except (pymysql.err.Error, UnicodeEncodeError) as error:
        raise StoreError(store, "arguments", f"a value does not fit: {error}") from error


def rows_of(cursor: Any, found: Sequence[Sequence[Any]]) -> list[Row]:
    if not found:
        return []
    columns = columns_of([column[0] for column in cursor.description])
    return [Row(columns, values) for values in found]


def _timestamp(text: str | bytes) -> Any:
    """Return a TIMESTAMP, which is in UTC because the session is. A DATETIME has no zone."""
    found = convert_datetime(text)
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) else found


CONVERSIONS: Mapping[Any, Callable[..., Any]] = {
    **conversions,
    FIELD_TYPE.TIMESTAMP: _timestamp,
    FIELD_TYPE.JSON: orjson.loads,
}
