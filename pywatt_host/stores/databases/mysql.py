"""MySQL and MariaDB. Uses aiomysql, in the connection pool of the package `databases`.

Sessions use `utf8mb4` and UTC. A connection whose statement was cancelled is closed, because the driver cannot use it
any more.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import aiomysql  # type: ignore[import-untyped]
import pymysql  # type: ignore[import-untyped]
from databases.backends.mysql import MySQLBackend
from pymysql.constants import CLIENT, ER  # type: ignore[import-untyped]

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation, commit_unknown
from pywatt_host.stores.databases.mysql_values import CONVERSIONS, literal, rows_of
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import MYSQL, Arguments, bind, statements
from pywatt_host.stores.url import StoreUrl

_RECYCLE_AFTER = 300  # seconds; an idle connection is then replaced, because servers close theirs after wait_timeout
_CONNECT_TIMEOUT = 10.0  # seconds
_RELEASE_TIMEOUT = 3.0  # seconds that the return of a connection to the pool may take
_KILL_TIMEOUT = 1.0  # seconds to tell the server to stop an abandoned statement
_INIT_LOCK_TIMEOUT = 60  # seconds to wait for another process that applies `init`
_OPTIONS = ("unix_socket", "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify", "charset")
_INIT_TABLE = (
    "CREATE TABLE IF NOT EXISTS pywatt_init"
    " (name VARCHAR(190) PRIMARY KEY, digest CHAR(64) NOT NULL, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
)
_ISOLATION = {
    "read_committed": "READ COMMITTED",
    "repeatable_read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}


# Error numbers (MySQL and MariaDB error reference) to the code of a StoreError.
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
        self.abandoned_thread = 0  # id of the server's thread that runs an abandoned statement; 0 if there is none

    @property
    def broken(self) -> bool:
        return self._broken or bool(self._raw.closed)

    @broken.setter
    def broken(self, value: bool) -> None:
        self._broken = value

    async def fetch(self, text: str, arguments: Arguments, limit: int | None) -> Sequence[Row]:
        async with self._executed(_Cursor, text, arguments) as cursor:
            found = await (cursor.fetchall() if limit is None else cursor.fetchmany(limit))
            return rows_of(cursor, found)

    async def execute(self, text: str, arguments: Arguments) -> int:
        async with self._executed(_Cursor, text, arguments) as cursor:
            return 0 if cursor.description else max(cursor.rowcount, 0)

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        own = not self.in_transaction
        await self._query("BEGIN" if own else "SAVEPOINT pywatt_many")
        try:
            changed = 0
            for arguments in many:
                changed += await self.execute(text, arguments)
        except StoreError:
            if not self.broken:
                await self._query("ROLLBACK" if own else "ROLLBACK TO SAVEPOINT pywatt_many")
            raise
        await self._query("COMMIT" if own else "RELEASE SAVEPOINT pywatt_many")
        return changed

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        executed = self._executed(_StreamCursor, text, arguments)
        cursor = await executed.__aenter__()
        done = False
        try:
            while True:
                async with _TranslatedErrors(self, self._backend):
                    found = await cursor.fetchmany(chunk)
                if not found:
                    break
                yield rows_of(cursor, found)
            done = True
        finally:
            if done:
                async with _TranslatedErrors(self, self._backend):
                    await cursor.close()
            else:
                self.abort(running=True)  # there is no other way to stop the rows that the server still sends

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        if isolation is not None:
            await self._query(f"SET TRANSACTION ISOLATION LEVEL {_ISOLATION[isolation]}")
        await self._query(f"START TRANSACTION{' READ ONLY' if readonly else ''}")

    async def commit(self) -> None:
        async with _TranslatedErrors(self, self._backend, committing=True):
            await self._raw.query("COMMIT")

    async def rollback(self) -> None:
        await self._query("ROLLBACK")

    async def savepoint(self, name: str) -> None:
        await self._query(f"SAVEPOINT {name}")

    async def release_savepoint(self, name: str) -> None:
        await self._query(f"RELEASE SAVEPOINT {name}")

    async def rollback_to(self, name: str) -> None:
        await self._query(f"ROLLBACK TO SAVEPOINT {name}")
        await self._query(f"RELEASE SAVEPOINT {name}")

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        locked = await self.fetch("SELECT GET_LOCK('pywatt_init', $1) AS locked", (_INIT_LOCK_TIMEOUT,), 1)
        if locked[0]["locked"] != 1:
            message = f"another process has been applying `init` for {_INIT_LOCK_TIMEOUT}s"
            raise StoreError(self._store, "timeout", message)
        try:
            await self.execute(_INIT_TABLE, ())
            found = await self.fetch("SELECT digest FROM pywatt_init WHERE name = $1", (key,), 1)
            if not found:
                await self._query("START TRANSACTION")
                for statement in statements(MYSQL, script):  # statements that change tables commit by themselves here
                    await self.execute(statement, ())
                await self.execute("INSERT INTO pywatt_init (name, digest) VALUES ($1, $2)", (key, digest))
                await self.commit()
        finally:
            if not self.broken:
                await self._query("DO RELEASE_LOCK('pywatt_init')")
        return str(found[0]["digest"]) if found else None

    async def _query(self, sql: str) -> None:
        async with _TranslatedErrors(self, self._backend):
            await self._raw.query(sql)

    def _executed(self, kind: Any, text: str, arguments: Arguments) -> _ExecutedStatement:
        sql, values = bind(MYSQL, text, arguments, self._store)
        if values:  # the driver would put them into the text as well, but fails for bytes
            sql %= tuple(literal(value, self._raw.escape, self._store) for value in values)
        return _ExecutedStatement(self, self._backend, kind, sql)

    @property
    def in_transaction(self) -> bool:
        return bool(self._raw.get_transaction_status())

    async def cursor(self, kind: Any) -> Any:
        return await self._raw.cursor(kind)

    def abort(self, *, running: bool = False) -> None:
        """Close the connection at once. `running` says that the server still runs a statement for it."""
        self._broken = True
        if running and not self.abandoned_thread:
            self.abandoned_thread = int(self._raw.thread_id())
        self._raw.close()


class _WithoutWarnings:
    """Does not fetch the server's warnings after each statement, which the driver would raise as Python's."""

    async def _show_warnings(self, connection: Any) -> None:
        return


class _Cursor(_WithoutWarnings, aiomysql.Cursor):  # type: ignore[misc]
    pass


class _StreamCursor(_WithoutWarnings, aiomysql.SSCursor):  # type: ignore[misc]
    pass


class _TranslatedErrors:
    """Encloses calls of the driver and turns its exceptions into StoreError."""

    def __init__(self, session: MysqlSession, backend: MysqlBackend, *, committing: bool = False) -> None:
        self._session = session
        self._backend = backend
        self._committing = committing

    async def __aenter__(self) -> Any:
        return None

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError):
            return
        if not isinstance(error, _DRIVER_ERRORS):  # cancelled: the answer may have been read in part
            self._session.abort(running=True)
            return
        translated = self._backend.error(error)
        if translated.code == "unavailable":
            self._session.abort()
            if self._committing:
                raise commit_unknown(translated) from error
        raise translated from error


class _ExecutedStatement(_TranslatedErrors):
    """Executes a statement, and gives its cursor to the block."""

    def __init__(self, session: MysqlSession, backend: MysqlBackend, kind: Any, sql: str) -> None:
        super().__init__(session, backend)
        self._kind = kind
        self._sql = sql

    async def __aenter__(self) -> Any:
        async with _TranslatedErrors(self._session, self._backend):
            cursor = await self._session.cursor(self._kind)
            await cursor.execute(self._sql)
            return cursor


_DRIVER_ERRORS = (
    pymysql.err.Error, OSError, asyncio.IncompleteReadError, RuntimeError, ValueError, TypeError, KeyError,
)  # fmt: skip


class MysqlBackend:
    """Connections to one server."""

    kind = "mysql"

    def __init__(self, store: str, url: StoreUrl, *, max_size: int, statement_timeout: float | None) -> None:
        """`statement_timeout` is in seconds."""
        self._store = store
        self._url = url
        self._max_size = max_size
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
            message = f"url: unknown option {unknown[0]} (known: {', '.join(_OPTIONS)})"
            raise StoreError(self._store, "arguments", message)
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
            plain, min_size=0, max_size=self._max_size, pool_recycle=_RECYCLE_AFTER, connect_timeout=_CONNECT_TIMEOUT,
            charset=options.get("charset", "utf8mb4"), conv=CONVERSIONS, init_command=self._init_command(),
            client_flag=CLIENT.FOUND_ROWS, **more,
        )  # fmt: skip
        try:
            await self._library.connect()
        except (ValueError, *_DRIVER_ERRORS) as error:
            raise StoreError(self._store, "arguments", f"url: {url}: {_text_or_type(error)}") from error

    def _tls(self) -> ssl.SSLContext | None:
        options = self._url.options
        wanted = options.get("ssl", "true" if "ssl_ca" in options else "false")
        if wanted not in ("true", "false"):
            raise StoreError(self._store, "arguments", "url: ssl must be true or false")
        if wanted == "false":
            return None
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_ca"))
            if "ssl_cert" in options:
                context.load_cert_chain(options["ssl_cert"], options.get("ssl_key"))
        except OSError as error:
            raise StoreError(self._store, "arguments", f"url: the certificates cannot be read: {error}") from None
        if options.get("ssl_verify") == "false":
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _init_command(self) -> str:
        """Return the statement for each new connection. MariaDB runs the first comment, MySQL the second."""
        sql = "SET SESSION time_zone = '+00:00'"
        if self._statement_timeout is not None:
            seconds, millis = self._statement_timeout, max(1, round(self._statement_timeout * 1000))
            sql += f" /*M! , max_statement_time = {seconds:.6f} */ /*!50708 , max_execution_time = {millis} */"
        return sql

    async def acquire(self) -> DatabaseSession:
        slot: Any = self._library.connection()
        try:
            await slot.acquire()
        except _DRIVER_ERRORS as error:
            found = self.error(error)
            if found.code in ("authentication", "unavailable"):
                raise found from error
            raise StoreError(self._store, "statement", f"{self._url}: {_server_text(error)}") from error
        session = MysqlSession(self._store, self, slot)
        self._used.add(session)
        return session

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, MysqlSession)
        self._used.discard(session)
        if not session.broken and session.in_transaction:
            try:
                async with asyncio.timeout(_RELEASE_TIMEOUT):
                    await session.rollback()
            except (TimeoutError, StoreError):
                session.abort()
        if session.broken:
            session.abort()
        with suppress(AssertionError):  # the pool has been closed in the meantime
            await session.slot.release()
        if session.abandoned_thread:
            await self._kill(session.abandoned_thread)

    async def _kill(self, thread: int) -> None:
        """Stop what the server runs for a closed connection: it would keep its locks until the server notices."""
        with suppress(TimeoutError, *_DRIVER_ERRORS):
            async with asyncio.timeout(_KILL_TIMEOUT):
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
        with suppress(TimeoutError, *_DRIVER_ERRORS):
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await pool.wait_closed()

    def error(self, error: BaseException) -> StoreError:
        number = error.args[0] if isinstance(error, pymysql.err.Error) and error.args else None
        if isinstance(number, int) and number:
            code = _ERROR_CODES.get(number, "statement")
            if number < 1000 or number in (ER.CON_COUNT_ERROR,):
                code = "unavailable"
            where = f"{self._url}: " if code in ("unavailable", "authentication", "full") else ""
            return StoreError(self._store, code, f"{where}{_server_text(error)}")
        if isinstance(error, ValueError | TypeError | KeyError):
            return StoreError(self._store, "arguments", f"a value does not fit: {_text_or_type(error)}")
        return StoreError(self._store, "unavailable", f"{self._url}: {_server_text(error)}")


def _server_text(error: BaseException) -> str:
    """Return the server's message, with the error number after it."""
    if isinstance(error, pymysql.err.Error) and len(error.args) > 1:
        return f"{error.args[1]} ({error.args[0]})"
    return _text_or_type(error)


def _text_or_type(error: BaseException) -> str:
    return str(error) or type(error).__name__
