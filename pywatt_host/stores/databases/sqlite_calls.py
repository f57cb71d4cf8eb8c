"""The functions that run in the thread of a SQLite connection, and the types that SQLite does not have.

The converters of sqlite3 are chosen by the declared type of a column and are global to the process. They are registered
here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from functools import lru_cache
from re import IGNORECASE, compile
from typing import Any
from uuid import UUID

import orjson

from pywatt_host.stores.databases.row import Row, columns_of

_READS = compile(r"\s*(?:(?:--[^\n]*\n|/\*.*?\*/)\s*)*(select|values|explain|pragma|with)\b", IGNORECASE)
_WRITES = compile(r"\b(insert|update|delete|replace)\b", IGNORECASE)
_INIT_TABLE = (
    "CREATE TABLE IF NOT EXISTS pywatt_init (name TEXT PRIMARY KEY, digest TEXT NOT NULL, applied_at TEXT NOT NULL)"
)


def prepare(connection: sqlite3.Connection, synchronous: str) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    try:
        connection.execute("PRAGMA journal_mode = WAL")
    except sqlite3.OperationalError as error:
        if not getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
            raise
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # fails if the file is not a database


def fetch(connection: sqlite3.Connection, sql: str, values: Sequence[Any], limit: int | None) -> list[Row]:
    cursor = connection.execute(sql, values)
    try:
        return cursor.fetchall() if limit is None else cursor.fetchmany(limit)
    finally:
        cursor.close()


def execute(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> int:
    cursor = connection.execute(sql, values)
    changed = cursor.rowcount
    cursor.close()
    return max(changed, 0)


def execute_many(connection: sqlite3.Connection, sql: str, many: Sequence[Sequence[Any]]) -> int:
    if connection.in_transaction:
        connection.execute("SAVEPOINT pywatt_many")
        undo, done = ["ROLLBACK TO pywatt_many", "RELEASE pywatt_many"], "RELEASE pywatt_many"
    else:
        connection.execute("BEGIN IMMEDIATE")
        undo, done = ["ROLLBACK"], "COMMIT"
    try:
        cursor = connection.executemany(sql, many)
        changed = cursor.rowcount
        connection.execute(done)
    except BaseException:
        if connection.in_transaction:
            run_all(connection, *undo)
        raise
    return max(changed, 0)


def open_cursor(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
    return connection.execute(sql, values)


def next_rows(connection: sqlite3.Connection, cursor: sqlite3.Cursor, chunk: int) -> list[Row]:
    return cursor.fetchmany(chunk)


def close_cursor(connection: sqlite3.Connection, cursor: sqlite3.Cursor) -> None:
    cursor.close()


def run_all(connection: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement).close()


def nothing(connection: sqlite3.Connection) -> None:
    return


def apply_once(connection: sqlite3.Connection, key: str, digest: str, script: str) -> str | None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_INIT_TABLE)
        row = connection.execute("SELECT digest FROM pywatt_init WHERE name = ?", (key,)).fetchone()
        if row is None:
            for statement in _statements(script):
                connection.execute(statement)
            record = "INSERT INTO pywatt_init VALUES (?, ?, datetime('now'))"
            connection.execute(record, (key, digest))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return None if row is None else str(row["digest"])


def _statements(script: str) -> list[str]:
    """Split a script where SQLite itself sees the end of a statement: the body of a trigger contains semicolons too."""
    found: list[str] = []
    begun = ""
    for part in script.split(";"):
        begun += part
        if sqlite3.complete_statement(begun + ";"):
            found.append(begun)
            begun = ""
        else:
            begun += ";"
    found.append(begun.removesuffix(";"))
    return [each for each in found if each.strip()]


class Rows:
    """Makes the rows of one connection. All rows of a statement share their columns."""

    def __init__(self) -> None:
        self._description: Any = None
        self._columns: Mapping[str, int] = {}

    def __call__(self, cursor: sqlite3.Cursor, values: tuple[Any, ...]) -> Row:
        description = cursor.description
        if description is not self._description:
            self._columns = columns_of([column[0] for column in description])
            self._description = description
        return Row(self._columns, values)


@lru_cache(maxsize=1024)
def reads(sql: str) -> bool:
    """Whether a statement certainly writes nothing."""
    match = _READS.match(sql)
    return match is not None and (match[1].lower() != "with" or _WRITES.search(sql) is None)


def locked(error: BaseException | None) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


# Types that SQLite does not have --------------------------------------------------------------------------------------


def stored(value: Any) -> Any:
    """Return the value as it is stored: dates and times as ISO 8601, decimals, UUIDs and JSON as text."""
    if value is None or isinstance(value, str | int | float | bytes):
        return int(value) if isinstance(value, bool) else value
    if isinstance(value, datetime):
        return value.isoformat(" ")
    if isinstance(value, date | time_of_day):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return value


def _or_as_it_is(convert: Callable[[str], Any]) -> Callable[[bytes], Any]:
    """Make a converter that returns a value as text if it cannot be converted: other programs may have stored it."""

    def converted(stored_bytes: bytes) -> Any:
        text = stored_bytes.decode("utf-8", "replace")
        try:
            return convert(text)
        except (ValueError, ArithmeticError):
            return text

    return converted


def _bool(text: str) -> bool:
    known = {"0": False, "1": True, "false": False, "true": True}.get(text.lower())
    if known is None:
        raise ValueError(text)
    return known


for _names, _convert in (
    (("BOOLEAN", "BOOL"), _bool),
    (("DECIMAL", "NUMERIC"), Decimal),
    (("DATE",), date.fromisoformat),
    (("TIMESTAMP", "TIMESTAMPTZ", "DATETIME"), datetime.fromisoformat),
    (("TIME",), time_of_day.fromisoformat),
    (("UUID",), UUID),
    (("JSON", "JSONB"), orjson.loads),
):
    for _name in _names:
        sqlite3.register_converter(_name, _or_as_it_is(_convert))
