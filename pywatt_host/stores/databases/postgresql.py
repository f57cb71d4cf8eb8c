"""PostgreSQL. Uses asyncpg, in the connection pool of the package `databases`.

The URL is that of libpq: asyncpg reads `sslmode`, `sslrootcert`, `host=/socket/directory` and the other options.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import orjson
from databases.backends.postgres import PostgresBackend

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation, commit_unknown
from pywatt_host.stores.databases.row import Row, columns_of
from pywatt_host.stores.databases.statement import POSTGRESQL, Arguments, bind
from pywatt_host.stores.url import StoreUrl

_MAX_IDLE_TIME = 300.0  # seconds after which an idle connection is closed
_RELEASE_TIMEOUT = 3.0  # seconds that the return of a connection to the pool may take before it is aborted
_INIT_TABLE = (
    "CREATE TABLE IF NOT EXISTS pywatt_init"
    " (name text PRIMARY KEY, digest text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
)
_INIT_LOCK_ID = int.from_bytes(hashlib.sha256(b"pywatt_init").digest()[:8], "big", signed=True)
_ISOLATION = {
    "read_committed": "READ COMMITTED",
    "repeatable_read": "REPEATABLE READ",
    "serializable": "SERIALIZABLE",
}

# SQLSTATE, or its class (PostgreSQL, appendix A), to the code of a StoreError.
_STATES = {
    "08": "unavailable",
    "57P": "unavailable",
    "53300": "unavailable",
    "53100": "full",
    "53200": "full",
    "28": "authentication",
    "23": "integrity",
    "40": "conflict",
    "55P03": "conflict",
    "57014": "timeout",
    "25006": "read_only",
    "22": "arguments",
}


class PostgresqlSession:
    """One connection to the server."""

    def __init__(self, store: str, backend: PostgresqlBackend, slot: Any) -> None:
        self.broken = False
        self.slot = slot  # of the library's pool
        self._store = store
        self._backend = backend
        self._raw = slot.raw_connection

    async def fetch(self, text: str, arguments: Arguments, limit: int | None) -> Sequence[Row]:
        sql, values = bind(POSTGRESQL, text, arguments, self._store)
        async with self._errors():
            if limit == 1:
                record = await self._raw.fetchrow(sql, *values)
                return _rows([record] if record is not None else [])
            return _rows(await self._raw.fetch(sql, *values))

    async def execute(self, text: str, arguments: Arguments) -> int:
        sql, values = bind(POSTGRESQL, text, arguments, self._store)
        async with self._errors():
            status = await self._raw.execute(sql, *values)
        number = status.rpartition(" ")[2]
        return int(number) if number.isdigit() and not status.startswith("SELECT") else 0

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        bound = [bind(POSTGRESQL, text, arguments, self._store) for arguments in many]
        async with self._errors():
            await self._raw.executemany(bound[0][0], [values for _, values in bound])  # in a transaction of its own
        return len(bound)

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        sql, values = bind(POSTGRESQL, text, arguments, self._store)
        own = not self._raw.is_in_transaction()
        if own:
            await self.begin(readonly=False, isolation=None)
        try:
            async with self._errors():
                cursor = await self._raw.cursor(sql, *values)
            while True:
                async with self._errors():
                    records = await cursor.fetch(chunk)
                if not records:
                    break
                yield _rows(records)
        except BaseException:
            if own and not self.broken:
                await self._roll_back_own()
            raise
        if own:
            await self.commit()

    async def _roll_back_own(self) -> None:
        """Roll back a transaction that this session began by itself. If that fails, the session is broken."""
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                await self.rollback()
        except (StoreError, TimeoutError):
            self.broken = True

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        level = f" ISOLATION LEVEL {_ISOLATION[isolation]}" if isolation is not None else ""
        await self._execute(f"BEGIN{level}{' READ ONLY' if readonly else ''}")

    async def commit(self) -> None:
        async with self._errors(committing=True):
            status = await self._raw.execute("COMMIT")
        if status == "ROLLBACK":
            raise StoreError(self._store, "statement", "an error in the transaction has rolled it back")

    async def rollback(self) -> None:
        await self._execute("ROLLBACK")

    async def savepoint(self, name: str) -> None:
        await self._execute(f"SAVEPOINT {name}")

    async def release_savepoint(self, name: str) -> None:
        await self._execute(f"RELEASE SAVEPOINT {name}")

    async def rollback_to(self, name: str) -> None:
        await self._execute(f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        async with self._errors(), self._raw.transaction():
            await self._raw.execute("SELECT pg_advisory_xact_lock($1)", _INIT_LOCK_ID)
            await self._raw.execute(_INIT_TABLE)
            before = await self._raw.fetchval("SELECT digest FROM pywatt_init WHERE name = $1", key)
            if before is None:
                await self._raw.execute(script)
                await self._raw.execute("INSERT INTO pywatt_init (name, digest) VALUES ($1, $2)", key, digest)
        return None if before is None else str(before)

    async def _execute(self, sql: str) -> None:
        async with self._errors():
            await self._raw.execute(sql)

    def _errors(self, *, committing: bool = False) -> _TranslatedErrors:
        return _TranslatedErrors(self, self._backend, committing)

    @property
    def closed(self) -> bool:
        try:
            return bool(self._raw.is_closed())
        except asyncpg.InterfaceError:  # the pool has already taken back a connection that was lost
            return True

    @property
    def in_transaction(self) -> bool:
        return bool(self._raw.is_in_transaction())

    def abort(self) -> None:
        """Close the connection at once."""
        with suppress(asyncpg.InterfaceError):  # as in `closed`
            self._raw.terminate()


class _TranslatedErrors:
    """Encloses calls of the driver and turns its exceptions into StoreError."""

    __slots__ = ("_backend", "_committing", "_session")

    def __init__(self, session: PostgresqlSession, backend: PostgresqlBackend, committing: bool) -> None:
        self._session = session
        self._backend = backend
        self._committing = committing

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError):
            return
        # After an InternalClientError, the driver no longer knows the state of the connection.
        if self._session.closed or isinstance(error, asyncpg.InternalClientError):
            self._session.broken = True
        if isinstance(error, _DRIVER_ERRORS):
            translated = self._backend.error(error)
            if self._session.broken and self._committing:
                raise commit_unknown(translated, "unavailable") from error
            raise translated from error


# The exceptions of asyncpg: errors of the server, of its own interface, of values, of the connection.
_DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, ValueError)


class PostgresqlBackend:
    """Connections to one server."""

    kind = "postgresql"

    def __init__(self, store: str, url: StoreUrl, text: str, *, max_size: int, statement_timeout: float | None) -> None:
        """`text` is the URL that asyncpg reads. `statement_timeout` is in seconds."""
        self._store = store
        self._url = url
        settings = {"application_name": "pywatt-host"} if "application_name" not in url.options else {}
        if statement_timeout is not None:
            settings["statement_timeout"] = str(max(1, round(statement_timeout * 1000)))
        # asyncpg understands more of the URL than the library does: None leaves each part to asyncpg.
        parts = dict.fromkeys(("host", "port", "user", "password", "database"))
        self._library = PostgresBackend(
            "postgresql://", **parts, dsn=text, min_size=0, max_size=max_size, init=_prepare, server_settings=settings,
            max_inactive_connection_lifetime=_MAX_IDLE_TIME,
        )  # fmt: skip
        self._used: set[PostgresqlSession] = set()

    @property
    def size(self) -> int:
        pool = self._library._pool
        return pool.get_size() if pool is not None else 0

    @property
    def idle(self) -> int:
        pool = self._library._pool
        return pool.get_idle_size() if pool is not None else 0

    async def open(self) -> None:
        try:
            await self._library.connect()
        except (asyncpg.InterfaceError, asyncpg.ClientConfigurationError, ValueError, OSError) as error:
            raise StoreError(self._store, "arguments", f"url: {self._url}: {error}") from error

    async def acquire(self) -> DatabaseSession:
        slot: Any = self._library.connection()
        try:
            await slot.acquire()
        except _DRIVER_ERRORS as error:
            raise self._connect_error(error) from error
        session = PostgresqlSession(self._store, self, slot)
        self._used.add(session)
        return session

    def _connect_error(self, error: BaseException) -> StoreError:
        if isinstance(error, asyncpg.PostgresError):
            found = self.error(error)
            if found.code in ("authentication", "unavailable"):
                return found
            return StoreError(self._store, "statement", f"{self._url}: {error}")
        return StoreError(self._store, "unavailable", f"{self._url}: could not connect: {_text_or_type(error)}")

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, PostgresqlSession)
        self._used.discard(session)
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                if not session.broken and not session.closed and session.in_transaction:
                    await session.rollback()
                if session.broken:
                    session.abort()
                await session.slot.release()
        except (TimeoutError, StoreError, *_DRIVER_ERRORS):
            session.abort()
            with suppress(TimeoutError, *_DRIVER_ERRORS):
                async with asyncio.timeout(_RELEASE_TIMEOUT):
                    await session.slot.release()

    async def close(self) -> None:
        pool = self._library._pool
        if pool is None:
            return
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT):
                if self._used:
                    pool.terminate()
                else:
                    await pool.close()
        except (TimeoutError, *_DRIVER_ERRORS):
            pool.terminate()

    def error(self, error: BaseException) -> StoreError:
        state = getattr(error, "sqlstate", None)
        if isinstance(error, asyncpg.DataError) and state is None:  # a value that does not fit its parameter
            return StoreError(self._store, "arguments", _text_or_type(error))
        if isinstance(error, asyncpg.PostgresConnectionError | asyncpg.InternalClientError | OSError):
            return StoreError(self._store, "unavailable", f"{self._url}: {_text_or_type(error)}")
        if isinstance(state, str):
            code = next((_STATES[state[:cut]] for cut in (5, 3, 2) if state[:cut] in _STATES), "statement")
            where = f"{self._url}: " if code in ("unavailable", "authentication", "full") else ""
            return StoreError(self._store, code, f"{where}{' '.join(str(error).split())}")
        if isinstance(error, asyncpg.InterfaceError) and "connection" in str(error):
            return StoreError(self._store, "unavailable", f"{self._url}: {_text_or_type(error)}")
        return StoreError(self._store, "arguments", _text_or_type(error))


async def _prepare(connection: Any) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(
            name, schema="pg_catalog", format="text", encoder=_json, decoder=orjson.loads
        )  # fmt: skip


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _rows(records: Sequence[Any]) -> list[Row]:
    if not records:
        return []
    columns: Mapping[str, int] = columns_of(list(records[0].keys()))
    return [Row(columns, tuple(record)) for record in records]


def _text_or_type(error: BaseException) -> str:
    return str(error) or type(error).__name__
