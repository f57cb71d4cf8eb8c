"""Databases, as applications see them: the same calls, placeholders and errors on every kind."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.context import current_request
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation
from pywatt_host.stores.databases.connection import CHUNK, Connection, finished
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.stats import Stats

__all__ = ["Connection", "Database", "Row"]

logger = logging.getLogger("pywatt.stores")

_AGAIN = 0.25  # seconds until a refused password is tried again, where it may rotate
_GRACE = 30.0  # seconds that connections of a URL that was rotated away may still be used
_LOOKING = 1.0  # seconds that a check waits for a connection
_BUSY = 10.0  # seconds within which a statement has come to its end where a pool is exhausted and well


class Database:
    """`app_state.db`, and each of `app_state.databases`. Its methods may be used by any number of tasks of the host's
    event loop; each call outside of `acquire` and `transaction` uses a connection of its own."""

    def __init__(
        self,
        name: str,
        make: Callable[[str], Awaitable[ConnectionPool]],
        *,
        acquire_timeout: float,
        statement_timeout: float | None,
        init: Path | None = None,
        init_key: str = "",
        rotates: bool = False,
        stats: Stats,
    ) -> None:
        """`make` gives the pool of a URL. `init` is a script of SQL that is run once in the life of the database,
        recorded as `init_key`. It `rotates` where a refused password may be about to be replaced."""
        self.store = f"databases.{name}"
        self.stats = stats
        self.answered = -_BUSY  # when the last statement came to its end, as perf_counter has it
        self.statement_timeout = statement_timeout
        self._make = make
        self._acquire_timeout = acquire_timeout
        self._rotates = rotates
        self._init = init
        self._init_key = init_key
        self._initialising = asyncio.Lock()
        self._initialised = init is None
        self._pool: ConnectionPool | None = None
        self._swapped = asyncio.Event()
        self._draining: set[asyncio.Task[None]] = set()

    # What applications use ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def acquire(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        """A connection for the block, within `timeout` seconds (default: `pool.timeout`). What a block leaves open of a
        transaction is rolled back. Raises StoreError: `exhausted` where all connections stay in use, `unavailable`
        where the server cannot be reached."""
        pool, session = await self._take(self._acquire_timeout if timeout is None else timeout)
        connection = Connection(self, session)
        try:
            yield connection
        finally:
            await finished(connection._end(pool))

    @asynccontextmanager
    async def transaction(
        self, *, readonly: bool = False, isolation: Isolation | None = None
    ) -> AsyncIterator[Connection]:
        """A connection with a transaction around the block; see Connection.transaction."""
        async with self.acquire() as connection, connection.transaction(readonly=readonly, isolation=isolation):
            yield connection

    async def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """As Connection.fetch, on a connection of its own."""
        async with self.acquire() as connection:
            return await connection.fetch(query, *args, **named)

    async def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """As Connection.fetchrow, on a connection of its own."""
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *args, **named)

    async def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """As Connection.fetchval, on a connection of its own."""
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args, column=column, **named)

    async def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """As Connection.execute, on a connection of its own."""
        async with self.acquire() as connection:
            return await connection.execute(query, *args, **named)

    async def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """As Connection.executemany, on a connection of its own."""
        async with self.acquire() as connection:
            return await connection.executemany(query, many)

    async def iterate(self, query: str, /, *args: Any, chunk: int = CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
        """As Connection.iterate, on a connection of its own that is held until the loop is over."""
        async with (
            self.acquire() as connection,
            aclosing(connection.iterate(query, *args, chunk=chunk, **named)) as rows,
        ):
            async for row in rows:
                yield row

    def __repr__(self) -> str:
        return f"<Database {self.store} {self._pool.shown if self._pool is not None else 'not open'}>"

    # What the host uses ---------------------------------------------------------------------------------------------

    @property
    def pool(self) -> ConnectionPool | None:
        """The one in use, for gauges; None before the start."""
        return self._pool

    def failed(self, error: StoreError) -> None:
        """Count it; a request that fails of something that passes is answered with 503."""
        self.stats.counts[error.code] += 1
        if error.passing:
            request = current_request.get()
            if request is not None:
                request.unavailable = error.store

    async def open(self, url: str) -> None:
        """Take a URL, without connecting. Raises StoreError (`arguments`)."""
        pool = await self._make(url)
        await pool.open()
        self._pool = pool

    async def connect(self) -> None:
        """Connect, run what is to be run once. Raises StoreError."""
        assert self._pool is not None
        await self._pool.warm(self._acquire_timeout)
        if not self._initialised:
            async with self.acquire():
                pass

    async def check(self) -> None:
        """Raises StoreError where the database does not answer. One that is busy answers others: that its pool is
        exhausted is no failure as long as statements come to their ends."""
        try:
            async with self.acquire(timeout=_LOOKING) as connection:
                await connection._run("check", lambda: connection._session.fetch("SELECT 1", (), 1))
        except StoreError as error:
            if error.code != "exhausted" or perf_counter() - self.answered > _BUSY:
                raise

    async def replacement(self, url: str) -> ConnectionPool:
        """The pool of another URL, connected. A refused password is tried again for a while: whoever rotates may change
        the server after the secret. Raises StoreError; nothing is left behind then."""
        pool = await self._make(url)
        await pool.open()
        deadline = asyncio.get_running_loop().time() + self._acquire_timeout
        try:
            while True:
                try:
                    await pool.warm(self._acquire_timeout)
                    return pool
                except StoreError as error:
                    if error.code != "authentication" or asyncio.get_running_loop().time() > deadline:
                        raise
                await asyncio.sleep(_AGAIN)
        except BaseException:
            await pool.close(0)
            raise

    def swap(self, pool: ConnectionPool) -> None:
        """Use this pool from now on; the connections of the old one are closed as they come back."""
        old, self._pool = self._pool, pool
        self._swapped.set()
        self._swapped = asyncio.Event()
        if old is not None:
            self.drop(old, _GRACE)

    def drop(self, pool: ConnectionPool, grace: float = 0.0) -> None:
        """Close a pool in the background."""
        task = asyncio.get_running_loop().create_task(pool.close(grace), name=f"drain {self.store}")
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def close(self, grace: float) -> None:
        """What is in use gets `grace` seconds."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close(grace)
        if self._draining:
            _, late = await asyncio.wait(self._draining, timeout=grace)
            for task in late:
                task.cancel()

    async def _take(self, timeout: float) -> tuple[ConnectionPool, DatabaseSession]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            pool, swapped = self._pool, self._swapped
            if pool is None:
                raise StoreError(self.store, "unavailable", "the host has not started it, or has stopped")
            try:
                session = await pool.acquire(max(deadline - loop.time(), 0.001))
            except StoreError as error:
                if self._pool is not pool and loop.time() < deadline:
                    continue  # it was rotated away meanwhile
                if error.code == "authentication" and self._rotates and loop.time() + _AGAIN < deadline:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_AGAIN):
                            await swapped.wait()
                    continue
                self.failed(error)
                raise
            if not self._initialised:
                try:
                    await self._initialise(session)
                except BaseException:
                    await finished(pool.release(session))
                    raise
            return pool, session

    async def _initialise(self, session: DatabaseSession) -> None:
        assert self._init is not None
        async with self._initialising:
            if self._initialised:
                return
            try:
                script = await asyncio.to_thread(self._init.read_text, "utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise StoreError(self.store, "arguments", f"init: {self._init.name} cannot be read: {error}") from None
            digest = hashlib.sha256(script.encode()).hexdigest()
            before = await session.apply_once(self._init_key, digest, script)
            if before is None:
                logger.info("%s: %s has been applied", self.store, self._init.name)
            elif before != digest:
                why = "it is applied once; change what is there with a migration"
                logger.warning("%s: %s has changed since it was applied; %s", self.store, self._init.name, why)
            self._initialised = True
