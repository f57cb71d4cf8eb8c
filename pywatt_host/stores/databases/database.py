"""The database that applications use, with the same methods, placeholders and errors for every kind of database."""

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
from pywatt_host.stores.spans import NO_STORE_SPANS, StoreSpans
from pywatt_host.stores.stats import Stats

__all__ = ["Connection", "Database", "Row"]

logger = logging.getLogger("pywatt.stores")

_RETRY_DELAY = 0.25  # seconds until a refused password is tried again, if its secret may rotate
_DRAIN_TIMEOUT = 30.0  # seconds for which connections with the old URL may still be used after a rotation
_CHECK_TIMEOUT = 1.0  # seconds that a health check waits for a connection
_SHORT_WAIT = 0.001  # seconds for a connection that have no span
_BUSY_PERIOD = 10.0  # seconds; if a statement ended within this time, an exhausted pool is busy and not broken


class Database:
    """`app_state.db`, and each database in `app_state.databases`.

    Any number of tasks of the host's event loop may use it. Each call takes a connection from the pool, runs, and
    returns the connection. To run several statements on one connection, use `acquire` or `transaction`. The host opens
    the database before the application starts, and closes it after the last request.

    In queries, placeholders are `$1`, `$2` with values in order, or `:name` with a dict or keyword arguments, for every
    kind of database. Every method raises StoreError; see its codes there. A call that takes longer than
    `statement_timeout` (seconds) raises StoreError (`timeout`).

    >>> import asyncio
    >>> from pathlib import Path
    >>> from pywatt_host.manifest.model import Database as DatabaseOptions
    >>> from pywatt_host.stores.kinds import StoreContext
    >>> from pywatt_host.stores.service import DatabaseStore
    >>> async def main():
    ...     options = DatabaseOptions(url="sqlite:///:memory:")
    ...     store = DatabaseStore("default", options, StoreContext(Path(), "notes"), rotates=False)
    ...     await store.try_once({})
    ...     db = store.database  # in an application: app_state.db
    ...     await db.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")
    ...     async with db.transaction() as conn:
    ...         await conn.execute("INSERT INTO notes VALUES ($1, $2)", 1, "buy milk")
    ...         await conn.execute("INSERT INTO notes VALUES (:id, :text)", id=2, text="call Ada")
    ...     row = await db.fetchrow("SELECT id, text FROM notes WHERE id = $1", 1)
    ...     print(row.text, row["id"], dict(row))
    ...     print([note.text async for note in db.iterate("SELECT text FROM notes ORDER BY id")])
    ...     try:
    ...         async with db.transaction() as conn:
    ...             await conn.execute("DELETE FROM notes")
    ...             await conn.execute("INSERT INTO notes VALUES (3, NULL)")
    ...     except StoreError as error:
    ...         print(error.store, error.code)
    ...     print(await db.fetchval("SELECT count(*) FROM notes"))  # the transaction was rolled back
    ...     await store.close()
    >>> asyncio.run(main())
    buy milk 1 {'id': 1, 'text': 'buy milk'}
    ['buy milk', 'call Ada']
    databases.default integrity
    2
    """

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
        spans: StoreSpans = NO_STORE_SPANS,
    ) -> None:
        """`make` makes the pool for a URL. `init` is an SQL script that runs once in the life of the database; it is
        recorded there as `init_key`. `rotates` says that a refused password may be about to be replaced. Timeouts are
        in seconds."""
        self.store = f"databases.{name}"
        self.stats = stats
        self.spans = spans
        self.answered = -_BUSY_PERIOD  # when the last statement ended, as perf_counter counts
        self.statement_timeout = statement_timeout
        self._make = make
        self._acquire_timeout = acquire_timeout
        self._rotates = rotates
        self._init = init
        self._init_key = init_key
        self._init_lock = asyncio.Lock()
        self._initialised = init is None
        self._pool: ConnectionPool | None = None
        self._swapped = asyncio.Event()
        self._draining: set[asyncio.Task[None]] = set()

    # What applications use ------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def acquire(self, timeout: float | None = None) -> AsyncIterator[Connection]:
        """Take a connection from the pool for the block.

        `timeout` is how long to wait for it, in seconds; the default is `pool.timeout`. A transaction that is still
        open at the end of the block is rolled back. Raises StoreError: `exhausted` if all connections stay in use,
        `unavailable` if the server is not reachable.
        """
        take = self._take_traced if self.spans.enabled else self._take
        pool, session = await take(self._acquire_timeout if timeout is None else timeout)
        connection = Connection(self, session)
        try:
            yield connection
        finally:
            await finished(connection._give_back(pool))

    @asynccontextmanager
    async def transaction(
        self, *, readonly: bool = False, isolation: Isolation | None = None
    ) -> AsyncIterator[Connection]:
        """Take a connection from the pool, and run the block in a transaction. See Connection.transaction."""
        async with self.acquire() as connection, connection.transaction(readonly=readonly, isolation=isolation):
            yield connection

    async def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """Run the query and return all rows."""
        async with self.acquire() as connection:
            return await connection.fetch(query, *args, **named)

    async def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """Run the query and return the first row, or None if there is no row."""
        async with self.acquire() as connection:
            return await connection.fetchrow(query, *args, **named)

    async def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """Run the query and return one value of the first row, or None if there is no row.

        `column` is the position of the value, from 0, or the name of its column.
        """
        async with self.acquire() as connection:
            return await connection.fetchval(query, *args, column=column, **named)

    async def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """Run the statement and return how many rows it changed; 0 if it changes none."""
        async with self.acquire() as connection:
            return await connection.execute(query, *args, **named)

    async def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """Run the statement once for each entry of `many`, and return how many rows they changed together.

        Either all of them take effect or none.
        """
        async with self.acquire() as connection:
            return await connection.executemany(query, many)

    async def iterate(self, query: str, /, *args: Any, chunk: int = CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
        """Yield the rows one by one, with `chunk` rows in memory at a time. The loop holds a connection until it
        ends."""
        async with (
            self.acquire() as connection,
            aclosing(connection.iterate(query, *args, chunk=chunk, **named)) as rows,
        ):
            async for row in rows:
                yield row

    def __repr__(self) -> str:
        return f"<Database {self.store} {self._pool.display_url if self._pool is not None else 'not open'}>"

    # What the host uses ---------------------------------------------------------------------------------------------

    @property
    def pool(self) -> ConnectionPool | None:
        """The pool in use, for gauges. None before the start."""
        return self._pool

    def failed(self, error: StoreError) -> None:
        """Count the error. If it is likely to pass, a request that fails because of it is answered with 503."""
        self.stats.counts[error.code] += 1
        if error.passing:
            request = current_request.get()
            if request is not None:
                request.unavailable = error.store

    async def open(self, url: str) -> None:
        """Set the URL, without connecting. Raises StoreError (`arguments`)."""
        pool = await self._make(url)
        await pool.open()
        self._pool = pool

    async def connect(self) -> None:
        """Connect, and run the `init` script if it has not run yet. Raises StoreError."""
        assert self._pool is not None
        await self._pool.warm(self._acquire_timeout)
        if not self._initialised:
            async with self.acquire():
                pass

    async def check(self) -> None:
        """Raise StoreError if the database does not answer. An exhausted pool is not a failure, as long as the
        statements on its connections end."""
        try:
            async with self.acquire(timeout=_CHECK_TIMEOUT) as connection:
                await connection._probe()
        except StoreError as error:
            if error.code != "exhausted" or perf_counter() - self.answered > _BUSY_PERIOD:
                raise

    async def replacement(self, url: str) -> ConnectionPool:
        """Make a pool for another URL, and connect it.

        A refused password is retried until `pool.timeout` has passed, because the password may be changed on the server
        after the secret. Raises StoreError, and then leaves nothing behind.
        """
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
                await asyncio.sleep(_RETRY_DELAY)
        except BaseException:
            await pool.close(0)
            raise

    def swap(self, pool: ConnectionPool) -> None:
        """Use this pool from now on. The connections of the old pool are closed when they are returned."""
        old, self._pool = self._pool, pool
        self._swapped.set()
        self._swapped = asyncio.Event()
        if old is not None:
            self.drop(old, _DRAIN_TIMEOUT)

    def drop(self, pool: ConnectionPool, grace: float = 0.0) -> None:
        """Close a pool in the background. Connections in use get `grace` seconds."""
        task = asyncio.get_running_loop().create_task(pool.close(grace), name=f"drain {self.store}")
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def close(self, grace: float) -> None:
        """Close the database. Connections in use get `grace` seconds."""
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
                raise StoreError(self.store, "unavailable", "the host has not opened it yet, or has closed it")
            try:
                session = await pool.acquire(max(deadline - loop.time(), 0.001))
            except StoreError as error:
                if self._pool is not pool and loop.time() < deadline:
                    continue  # a rotation has replaced the pool in the meantime
                if error.code == "authentication" and self._rotates and loop.time() + _RETRY_DELAY < deadline:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY_DELAY):
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

    async def _take_traced(self, timeout: float) -> tuple[ConnectionPool, DatabaseSession]:
        """As `_take`, with a span where that takes long enough to be of interest, or fails."""
        span, began, failed = self.spans.waiting(), perf_counter(), False
        try:
            return await self._take(timeout)
        except BaseException as error:
            failed = True
            span.fail(error.code if isinstance(error, StoreError) else type(error).__qualname__)
            raise
        finally:
            if failed or perf_counter() - began > _SHORT_WAIT:
                span.end()

    async def _initialise(self, session: DatabaseSession) -> None:
        assert self._init is not None
        async with self._init_lock:
            if self._initialised:
                return
            try:
                script = await asyncio.to_thread(self._init.read_text, "utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise StoreError(self.store, "arguments", f"init: {self._init.name} cannot be read: {error}") from None
            digest = hashlib.sha256(script.encode()).hexdigest()
            before = await session.apply_once(self._init_key, digest, script)
            if before is None:
                logger.info("%s: applied %s", self.store, self._init.name)
            elif before != digest:
                what = "it is applied only once; change the tables with a migration"
                logger.warning("%s: %s has changed since it was applied; %s", self.store, self._init.name, what)
            self._initialised = True
