"""SQLite: database files and databases in memory. Uses aiosqlite, with one thread for each connection.

Databases have a write-ahead log and foreign keys, and a write is durable when it is acknowledged. Writers of this
process queue for one lock, and wait for writers of other processes.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiosqlite

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases import sqlite_calls as calls
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import SQLITE, Arguments, bind
from pywatt_host.stores.url import StoreUrl

T = TypeVar("T")

_BUSY_TIMEOUT = 0.05  # seconds that SQLite itself waits for another process; it cannot be interrupted in this time
_LOCK_POLL_INTERVAL = 0.02  # seconds until a lock that another process holds is tried again
_INTERRUPT_TIMEOUT = 5.0  # seconds that a statement has to end after it was interrupted
_MODES = ("ro", "rw", "rwc")
_SYNCHRONOUS = ("off", "normal", "full", "extra")

_CODES = {
    "SQLITE_CONSTRAINT": "integrity",
    "SQLITE_FULL": "full",
    "SQLITE_READONLY": "read_only",
    "SQLITE_CANTOPEN": "unavailable",
    "SQLITE_IOERR": "unavailable",
    "SQLITE_NOTADB": "unavailable",
    "SQLITE_CORRUPT": "unavailable",
    "SQLITE_INTERRUPT": "timeout",
    "SQLITE_TOOBIG": "arguments",
    "SQLITE_MISMATCH": "arguments",
}


class _Threaded(aiosqlite.Connection):
    """A connection whose thread runs any function, so that a statement needs one change of threads and not three."""

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        result: T = await self._execute(function, self._conn, *arguments)  # type: ignore[no-untyped-call]
        return result

    async def join_thread(self) -> None:
        """Wait for the thread to end, up to 5 seconds. A thread that outlives the event loop would call it."""
        await asyncio.to_thread(self._thread.join, _INTERRUPT_TIMEOUT)

    def interrupt_now(self) -> None:
        if self._connection is not None:
            self._connection.interrupt()


class SqliteSession:
    """One connection to a file."""

    def __init__(self, backend: SqliteBackend, connection: _Threaded) -> None:
        self.broken = False
        self.connection = connection
        self._backend = backend
        self._store = backend.store
        self._writing = False
        self._readonly = False

    async def fetch(self, text: str, arguments: Arguments, limit: int | None) -> Sequence[Row]:
        sql, values = self._bound(text, arguments)
        return await self._write_or_read(sql, calls.fetch, sql, values, limit)

    async def execute(self, text: str, arguments: Arguments) -> int:
        sql, values = self._bound(text, arguments)
        return await self._write_or_read(sql, calls.execute, sql, values)

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        bound = [self._bound(text, arguments) for arguments in many]
        return await self._write_or_read("", calls.execute_many, bound[0][0], [values for _, values in bound])

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        sql, values = self._bound(text, arguments)
        cursor: sqlite3.Cursor = await self._write_or_read(sql, calls.open_cursor, sql, values)
        try:
            while rows := await self._call(calls.next_rows, cursor, chunk):
                yield rows
        finally:
            await self._call(calls.close_cursor, cursor)

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        if readonly:
            await self._call(calls.run_all, "PRAGMA query_only = 1", "BEGIN")
            self._readonly = True
            return
        await self._backend.lock_writing()
        try:
            await self._retry_while_locked(calls.run_all, "BEGIN IMMEDIATE")
        except BaseException:
            self._backend.unlock_writing()
            raise
        self._writing = True

    async def commit(self) -> None:
        if not self.connection.in_transaction:
            self.stop_writing()
            raise StoreError(self._store, "statement", "an error in the transaction has rolled it back")
        await self._retry_while_locked(calls.run_all, "COMMIT")
        await self._transaction_ended()

    async def rollback(self) -> None:
        if self.connection.in_transaction:
            await self._call(calls.run_all, "ROLLBACK")
        await self._transaction_ended()

    async def _transaction_ended(self) -> None:
        self.stop_writing()
        if self._readonly:
            self._readonly = False
            await self._call(calls.run_all, "PRAGMA query_only = 0")

    def stop_writing(self) -> None:
        """Release the lock on writing, if this session holds it."""
        if self._writing:
            self._writing = False
            self._backend.unlock_writing()

    async def savepoint(self, name: str) -> None:
        await self._call(calls.run_all, f"SAVEPOINT {name}")

    async def release_savepoint(self, name: str) -> None:
        await self._call(calls.run_all, f"RELEASE {name}")

    async def rollback_to(self, name: str) -> None:
        if self.connection.in_transaction:  # an error may have rolled back the whole transaction
            await self._call(calls.run_all, f"ROLLBACK TO {name}", f"RELEASE {name}")

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        return await self._write_or_read("", calls.apply_once, key, digest, script)

    async def reset(self) -> None:
        """Roll back a transaction that is still open."""
        if self.connection.in_transaction or self._writing or self._readonly:
            await self.rollback()

    async def prepare(self, synchronous: str) -> None:
        await self._retry_while_locked(calls.prepare, synchronous)

    def _bound(self, text: str, arguments: Arguments) -> tuple[str, tuple[Any, ...]]:
        sql, values = bind(SQLITE, text, arguments, self._store)
        return sql, tuple(map(calls.stored, values)) if values else values

    async def _write_or_read(self, sql: str, function: Callable[..., T], *arguments: Any) -> T:
        """Run a statement. If it writes and no transaction is open, it holds the lock on writing."""
        if self._writing or self._readonly or (sql and calls.reads(sql)):
            return await self._call(function, *arguments)
        await self._backend.lock_writing()
        try:
            return await self._retry_while_locked(function, *arguments)
        finally:
            self._backend.unlock_writing()

    async def _retry_while_locked(self, function: Callable[..., T], *arguments: Any) -> T:
        """Retry while another process writes, until the lock timeout."""
        deadline = time.monotonic() + self._backend.lock_timeout
        while True:
            try:
                return await self._call(function, *arguments)
            except StoreError as error:
                if error.code != "timeout" or not calls.locked(error.__cause__) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_LOCK_POLL_INTERVAL)

    async def _call(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self.connection.run(function, *arguments)
        except sqlite3.Error as error:
            raise self._backend.error(error) from error
        except (OverflowError, UnicodeEncodeError) as error:
            raise StoreError(self._store, "arguments", f"a value does not fit: {error}") from error
        except ValueError as error:
            self.broken = True
            raise StoreError(self._store, "unavailable", "the connection is closed") from error
        except asyncio.CancelledError:
            await self._interrupt()
            raise

    async def _interrupt(self) -> None:
        """Interrupt the statement that runs, and wait until it has ended: the next statement must not overlap it."""
        self.connection.interrupt_now()
        task = asyncio.ensure_future(self.connection.run(calls.nothing))
        _, late = await asyncio.wait([task], timeout=_INTERRUPT_TIMEOUT)
        if late:
            task.cancel()
            self.broken = True


class SqliteBackend:
    """Connections to one file, or the one connection to a database in memory."""

    kind = "sqlite"

    def __init__(self, store: str, url: StoreUrl, directory: Path, lock_timeout: float) -> None:
        """A relative path is relative to `directory`. `lock_timeout` is how long a writer waits for another, in
        seconds."""
        self.store = store
        self.lock_timeout = lock_timeout
        self.in_memory = url.path in ("", ":memory:")
        self._url = url
        self._path = directory / url.path
        self._idle: list[SqliteSession] = []
        self._all: set[SqliteSession] = set()
        self._write_lock = asyncio.Lock()
        self._closed = False

    @property
    def size(self) -> int:
        return len(self._all)

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def open(self) -> None:
        url = self._url
        if url.host:
            hint = f"write three slashes before a path: sqlite:///{url.host}{'/' if url.path else ''}{url.path}"
            raise StoreError(self.store, "arguments", f"url: {url} has a host, but a file has none; {hint}")
        unknown = sorted(set(url.options) - {"mode", "synchronous"})
        if unknown:
            raise StoreError(self.store, "arguments", f"url: unknown option {unknown[0]} (known: mode, synchronous)")
        for option, known in (("mode", _MODES), ("synchronous", _SYNCHRONOUS)):
            if url.options.get(option, known[0]) not in known:
                raise StoreError(self.store, "arguments", f"url: {option} must be one of {', '.join(known)}")

    async def lock_writing(self) -> None:
        """Wait for the lock on writing. One writer at a time holds it, in the order of the requests. Raises StoreError
        (`timeout`) after the lock timeout."""
        if not self._write_lock.locked():
            await self._write_lock.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self.lock_timeout):
                await self._write_lock.acquire()
        except TimeoutError:
            message = f"another transaction has been writing for more than {self.lock_timeout:g}s (pool.timeout)"
            raise StoreError(self.store, "timeout", message) from None

    def unlock_writing(self) -> None:
        self._write_lock.release()

    async def acquire(self) -> DatabaseSession:
        if self._closed:
            raise StoreError(self.store, "unavailable", "the database is closed")
        return self._idle.pop() if self._idle else await self._connect()

    async def _connect(self) -> SqliteSession:
        parent = self._path.parent
        if not self.in_memory and not parent.is_dir():
            raise StoreError(self.store, "unavailable", f"{self._url}: there is no directory {parent.name}; create it")
        connection = _Threaded(self._connector, 64)
        session = SqliteSession(self, connection)
        self._all.add(session)
        try:
            await connection
            await session.prepare(self._url.options.get("synchronous", "full"))
        except BaseException as error:
            await self._drop(session)
            if isinstance(error, sqlite3.Error):
                raise self.error(error) from error
            raise
        return session

    def _connector(self) -> sqlite3.Connection:
        if self.in_memory:
            where = ":memory:"
        else:
            where = f"file:{quote(str(self._path))}?mode={self._url.options.get('mode', 'rwc')}"
        connection = sqlite3.connect(
            where, timeout=_BUSY_TIMEOUT, isolation_level=None, detect_types=sqlite3.PARSE_DECLTYPES,
            check_same_thread=False, cached_statements=256, uri=not self.in_memory,
        )  # fmt: skip
        connection.row_factory = calls.Rows()
        return connection

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, SqliteSession)
        try:
            if not session.broken:
                await session.reset()
        except StoreError:
            session.broken = True
        finally:
            session.stop_writing()
        if session.broken or self._closed:
            await self._drop(session)
        else:
            self._idle.append(session)

    async def close(self) -> None:
        self._closed = True
        self._idle.clear()
        for session in tuple(self._all):
            session.connection.interrupt_now()
            await self._drop(session)

    async def _drop(self, session: SqliteSession) -> None:
        self._all.discard(session)
        with suppress(sqlite3.Error, TimeoutError):
            async with asyncio.timeout(_INTERRUPT_TIMEOUT):
                await session.connection.close()
                await session.connection.join_thread()

    def error(self, error: sqlite3.Error) -> StoreError:
        name = getattr(error, "sqlite_errorname", "") or ""
        text = str(error)
        if calls.locked(error):
            return StoreError(self.store, "timeout", f"the database is locked by another process ({text})")
        for prefix, code in _CODES.items():
            if name.startswith(prefix):
                where = f"{self._url}: " if code in ("unavailable", "full", "read_only") else ""
                return StoreError(self.store, code, f"{where}{text}")
        binding = isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError) or "type" in text.split()
        return StoreError(self.store, "arguments" if binding and not name else "statement", text)
