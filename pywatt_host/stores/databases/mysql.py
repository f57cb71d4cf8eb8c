"""MySQL and MariaDB, by aiomysql, in the pool that `databases` keeps.

`utf8mb4`, times in UTC. What was cancelled in the middle of a statement is closed: the driver cannot go on with it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote
from uuid import UUID

import aiomysql  # type: ignore[import-untyped]
import orjson
import pymysql  # type: ignore[import-untyped]
from databases.backends.mysql import MySQLBackend
from pymysql.constants import CLIENT, ER, FIELD_TYPE  # type: ignore[import-untyped]
from pymysql.converters import conversions, convert_datetime  # type: ignore[import-untyped]

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation
from pywatt_host.stores.databases.row import Row, columns_of
from pywatt_host.stores.databases.statement import MYSQL, Arguments, bind, statements
from pywatt_host.stores.url import StoreUrl

_RECYCLE = 300  # seconds after which an idle connection is replaced: servers close theirs after wait_timeout
_CONNECTING = 10.0  # seconds
_LEAVING = 3.0  # seconds that a connection may take on its way back
_KILLING = 1.0  # seconds to tell the server that nobody waits any more
_LOCK_WAIT = 60  # seconds for another process that applies `init`
_OPTIONS = ("unix_socket", "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify", "charset")
_RECORD = (
    "CREATE TABLE IF NOT EXISTS pywatt_init"
    " (name VARCHAR(190) PRIMARY KEY, digest CHAR(64) NOT NULL, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
)
_ISOLATION = {
    "read_committed": "READ COMMITTED",
    "repeatable_read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}


# Numbers of errors (MySQL and MariaDB error reference) to the code of a StoreError.
_ERROR_CODES = {
    1044: "authentication", 1045: "authentication", 1698: "authentication", 1862: "authentication",
    3118: "authentication", 4151: "authentication",
    1022: "integrity", 1048: "integrity", 1062: "integrity", 1216: "integrity", 1217: "integrity",
    1364: "integrity", 1451: "integrity", 1452: "integrity", 1557: "integrity", 1586: "integrity",
    3819: "integrity", 4025: "integrity",
    1205: "conflict", 1213: "conflict", 1020: "conflict",
    1021: "full", 1114: "full", 1041: "full", 1037: "full",
    1290: "read_only", 1792: "read_only", 1836: "read_only",
    1969: "timeout", 3024: "timeout", 1317: "timeout",
    1040: "unavailable", 1053: "unavailable", 1203: "unavailable", 1226: "unavailable", 1927: "unavailable",
    2002: "unavailable", 2003: "unavailable", 2006: "unavailable", 2013: "unavailable", 2014: "unavailable",
    2055: "unavailable",
    1264: "arguments", 1292: "arguments", 1366: "arguments", 1406: "arguments", 1265: "arguments",
    1411: "arguments", 1525: "arguments",
}  # fmt: skip


class MysqlSession:
    """One connection to the server."""

    def __init__(self, store: str, backend: MysqlBackend, slot: Any) -> None:
        self.slot = slot  # of the library's pool
        self._store = store
        self._backend = backend
        self._raw = slot.raw_connection
        self._broken = False
        self.left_running = 0  # the server's number of the thread that runs a statement which nobody waits for

    @property
    def broken(self) -> bool:
        return self._broken or bool(self._raw.closed)

    @broken.setter
    def broken(self, value: bool) -> None:
        self._broken = value

    async def fetch(self, text: str, arguments: Arguments, most: int | None) -> Sequence[Row]:
        async with self._ran(_Cursor, text, arguments) as cursor:
            found = await (cursor.fetchall() if most is None else cursor.fetchmany(most))
            return _rows(cursor, found)

    async def execute(self, text: str, arguments: Arguments) -> int:
        async with self._ran(_Cursor, text, arguments) as cursor:
            return 0 if cursor.description else max(cursor.rowcount, 0)

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        own = not self.in_transaction
        await self._say("BEGIN" if own else "SAVEPOINT pywatt_many")
        try:
            changed = 0
            for arguments in many:
                changed += await self.execute(text, arguments)
        except StoreError:
            if not self.broken:
                await self._say("ROLLBACK" if own else "ROLLBACK TO SAVEPOINT pywatt_many")
            raise
        await self._say("COMMIT" if own else "RELEASE SAVEPOINT pywatt_many")
        return changed

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        ran = self._ran(_StreamCursor, text, arguments)
        cursor = await ran.__aenter__()
        done = False
        try:
            while True:
                async with _Errors(self, self._backend):
                    found = await cursor.fetchmany(chunk)
                if not found:
                    break
                yield _rows(cursor, found)
            done = True
        finally:
            if done:
                async with _Errors(self, self._backend):
                    await cursor.close()
            else:
                self.cut(running=True)  # the rows that are still to come cannot be called back

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        if isolation is not None:
            await self._say(f"SET TRANSACTION ISOLATION LEVEL {_ISOLATION[isolation]}")
        await self._say(f"START TRANSACTION{' READ ONLY' if readonly else ''}")

    async def commit(self) -> None:
        async with _Errors(self, self._backend, committing=True):
            await self._raw.query("COMMIT")

    async def rollback(self) -> None:
        await self._say("ROLLBACK")

    async def savepoint(self, name: str) -> None:
        await self._say(f"SAVEPOINT {name}")

    async def release_savepoint(self, name: str) -> None:
        await self._say(f"RELEASE SAVEPOINT {name}")

    async def rollback_to(self, name: str) -> None:
        await self._say(f"ROLLBACK TO SAVEPOINT {name}")
        await self._say(f"RELEASE SAVEPOINT {name}")

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        locked = await self.fetch("SELECT GET_LOCK('pywatt_init', $1) AS locked", (_LOCK_WAIT,), 1)
        if locked[0]["locked"] != 1:
            raise StoreError(self._store, "timeout", "another process has been applying `init` for a minute")
        try:
            await self.execute(_RECORD, ())
            found = await self.fetch("SELECT digest FROM pywatt_init WHERE name = $1", (key,), 1)
            if not found:
                await self._say("START TRANSACTION")
                for statement in statements(MYSQL, script):  # what changes tables commits by itself here
                    await self.execute(statement, ())
                await self.execute("INSERT INTO pywatt_init (name, digest) VALUES ($1, $2)", (key, digest))
                await self.commit()
        finally:
            if not self.broken:
                await self._say("DO RELEASE_LOCK('pywatt_init')")
        return str(found[0]["digest"]) if found else None

    async def _say(self, sql: str) -> None:
        async with _Errors(self, self._backend):
            await self._raw.query(sql)

    def _ran(self, kind: Any, text: str, arguments: Arguments) -> _Ran:
        sql, values = bind(MYSQL, text, arguments, self._store)
        if values:  # the driver would put them into the text as well, and fails at octets
            sql %= tuple(self._literal(value) for value in values)
        return _Ran(self, self._backend, kind, sql)

    def _literal(self, value: Any) -> str:
        """A value as it stands in a statement. Times with a zone as UTC, UUIDs as text, JSON as its text."""
        if isinstance(value, bytes | bytearray | memoryview):
            return f"_binary X'{bytes(value).hex()}'"
        if isinstance(value, datetime) and value.tzinfo is not None:
            value = value.astimezone(UTC).replace(tzinfo=None)
        elif isinstance(value, UUID):
            value = str(value)
        elif isinstance(value, dict | list):
            value = orjson.dumps(value).decode()
        if not isinstance(value, _PLAIN):
            raise StoreError(self._store, "arguments", f"a value of the type {type(value).__name__} cannot be stored")
        try:
            return str(self._raw.escape(value))
        except (pymysql.err.Error, UnicodeEncodeError) as error:
            raise StoreError(self._store, "arguments", f"a value does not fit: {error}") from error

    @property
    def in_transaction(self) -> bool:
        return bool(self._raw.get_transaction_status())

    async def cursor(self, kind: Any) -> Any:
        return await self._raw.cursor(kind)

    def cut(self, *, running: bool = False) -> None:
        """Close it; `running`: the server is still busy with it, and would go on."""
        self._broken = True
        if running and not self.left_running:
            self.left_running = int(self._raw.thread_id())
        self._raw.close()


class _Quiet:
    """Without the warnings of the server, for which the driver asks each time, to raise them as Python's."""

    async def _show_warnings(self, connection: Any) -> None:
        return


class _Cursor(_Quiet, aiomysql.Cursor):  # type: ignore[misc]
    pass


class _StreamCursor(_Quiet, aiomysql.SSCursor):  # type: ignore[misc]
    pass


class _Errors:
    """Around every word with the driver: its errors become ours."""

    def __init__(self, session: MysqlSession, backend: MysqlBackend, *, committing: bool = False) -> None:
        self._session = session
        self._backend = backend
        self._committing = committing

    async def __aenter__(self) -> Any:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError):
            return
        if not isinstance(error, _DRIVER):  # cancelled: half of an answer may be on its way
            self._session.cut(running=True)
            return
        translated = self._backend.error(error)
        if translated.code == "unavailable":
            self._session.cut()
            if self._committing:
                message = f"{translated.message}; whether the transaction was committed is not known"
                raise StoreError(translated.store, "unavailable", message) from error
        raise translated from error


class _Ran(_Errors):
    """A statement that has been executed, and its cursor."""

    def __init__(self, session: MysqlSession, backend: MysqlBackend, kind: Any, sql: str) -> None:
        super().__init__(session, backend)
        self._kind = kind
        self._sql = sql

    async def __aenter__(self) -> Any:
        async with _Errors(self._session, self._backend):
            cursor = await self._session.cursor(self._kind)
            await cursor.execute(self._sql)
            return cursor


_DRIVER = (pymysql.err.Error, OSError, asyncio.IncompleteReadError, RuntimeError, ValueError, TypeError, KeyError)


class MysqlBackend:
    """Connections to one server."""

    kind = "mysql"

    def __init__(self, store: str, url: StoreUrl, *, most: int, statement_timeout: float | None) -> None:
        self._store = store
        self._url = url
        self._most = most
        self._statement_timeout = statement_timeout
        self._library: Any = None
        self._used: set[MysqlSession] = set()

    @property
    def size(self) -> int:
        return self._library._pool.size if self._library is not None else 0

    @property
    def idle(self) -> int:
        return self._library._pool.freesize if self._library is not None else 0

    async def open(self) -> None:
        url, options = self._url, self._url.options
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise StoreError(self._store, "arguments", f"url: no option {unknown[0]} (known: {', '.join(_OPTIONS)})")
        user = f"{quote(url.user or '', safe='')}:{quote(url.password or '', safe='')}@" if url.user else ""
        host = f"[{url.host}]" if url.host and ":" in url.host else url.host or "127.0.0.1"
        plain = f"mysql://{user}{host}:{url.port or 3306}/{quote(url.path, safe='')}"
        more: dict[str, Any] = {}
        if "unix_socket" in options:
            more["unix_socket"] = options["unix_socket"]
        tls = self._tls()
        if tls is not None:
            more["ssl"] = tls
        self._library = MySQLBackend(
            plain, min_size=0, max_size=self._most, pool_recycle=_RECYCLE, connect_timeout=_CONNECTING,
            charset=options.get("charset", "utf8mb4"), conv=_CONVERSIONS, init_command=self._greeting(),
            client_flag=CLIENT.FOUND_ROWS, **more,
        )  # fmt: skip
        try:
            await self._library.connect()
        except (ValueError, *_DRIVER) as error:
            raise StoreError(self._store, "arguments", f"url: {url}: {_said(error)}") from error

    def _tls(self) -> ssl.SSLContext | None:
        options = self._url.options
        wanted = options.get("ssl", "true" if "ssl_ca" in options else "false")
        if wanted not in ("true", "false"):
            raise StoreError(self._store, "arguments", "url: ssl is true or false")
        if wanted == "false":
            return None
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_ca"))
            if "ssl_cert" in options:
                context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
        except OSError as error:
            raise StoreError(self._store, "arguments", f"url: its certificates cannot be read: {error}") from None
        if options.get("ssl_verify") == "false":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _greeting(self) -> str:
        """Said on each new connection. The comments are read by one of the two servers each."""
        said = "SET SESSION time_zone = '+00:00'"
        if self._statement_timeout is not None:
            seconds, millis = self._statement_timeout, max(1, round(self._statement_timeout * 1000))
            said += f" /*M! , max_statement_time = {seconds:.6f} */ /*!50708 , max_execution_time = {millis} */"
        return said

    async def acquire(self) -> DatabaseSession:
        slot: Any = self._library.connection()
        try:
            await slot.acquire()
        except _DRIVER as error:
            found = self.error(error)
            if found.code in ("authentication", "unavailable"):
                raise found from error
            raise StoreError(self._store, "statement", f"{self._url}: {_text_of(error)}") from error
        session = MysqlSession(self._store, self, slot)
        self._used.add(session)
        return session

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, MysqlSession)
        self._used.discard(session)
        if not session.broken and session.in_transaction:
            try:
                async with asyncio.timeout(_LEAVING):
                    await session.rollback()
            except (TimeoutError, StoreError):
                session.cut()
        if session.broken:
            session.cut()
        with suppress(AssertionError):  # the pool has been closed meanwhile
            await session.slot.release()
        if session.left_running:
            await self._kill(session.left_running)

    async def _kill(self, thread: int) -> None:
        """End what the server runs for a connection that is gone: it would keep its locks until it notices."""
        with suppress(TimeoutError, *_DRIVER):
            async with asyncio.timeout(_KILLING):
                other = await aiomysql.connect(**self._library._pool._conn_kwargs)
                try:
                    await other.query(f"KILL {thread}")
                finally:
                    other.close()

    async def close(self) -> None:
        if self._library is None:
            return
        pool = self._library._pool
        pool.terminate()
        with suppress(TimeoutError, *_DRIVER):
            async with asyncio.timeout(_LEAVING):
                await pool.wait_closed()

    def error(self, error: BaseException) -> StoreError:
        number = error.args[0] if isinstance(error, pymysql.err.Error) and error.args else None
        if isinstance(number, int) and number:
            code = _ERROR_CODES.get(number, "statement")
            if number < 1000 or number in (ER.CON_COUNT_ERROR,):
                code = "unavailable"
            where = f"{self._url}: " if code in ("unavailable", "authentication", "full") else ""
            return StoreError(self._store, code, f"{where}{_text_of(error)}")
        if isinstance(error, ValueError | TypeError | KeyError):
            return StoreError(self._store, "arguments", f"a value does not fit: {_said(error)}")
        return StoreError(self._store, "unavailable", f"{self._url}: {_text_of(error)}")


# Types ----------------------------------------------------------------------------------------------------------------


_PLAIN = (str, int, float, Decimal, date, datetime, time, timedelta, type(None))


def _timestamp(text: str | bytes) -> Any:
    """A TIMESTAMP is a moment, and this connection's are in UTC; a DATETIME has no zone."""
    found = convert_datetime(text)
    return found.replace(tzinfo=UTC) if isinstance(found, datetime) else found


_CONVERSIONS: Mapping[Any, Callable[..., Any]] = {
    **conversions,
    FIELD_TYPE.TIMESTAMP: _timestamp,
    FIELD_TYPE.JSON: orjson.loads,
}


def _rows(cursor: Any, found: Sequence[Sequence[Any]]) -> list[Row]:
    if not found:
        return []
    columns = columns_of([column[0] for column in cursor.description])
    return [Row(columns, values) for values in found]


def _text_of(error: BaseException) -> str:
    """The server's words, without the number that stands before them."""
    if isinstance(error, pymysql.err.Error) and len(error.args) > 1:
        return f"{error.args[1]} ({error.args[0]})"
    return _said(error)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
