"""Databases, as applications see them: the same calls, placeholders and errors on every kind."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from pywatt_host.exceptions import StoreError
from pywatt_host.logs import current_request
from pywatt_host.stores.backend import Isolation, Session
from pywatt_host.stores.pool import Pool
from pywatt_host.stores.row import Row
from pywatt_host.stores.statement import Arguments, arguments_of
from pywatt_host.stores.stats import Stats

__all__ = ["Connection", "Database", "Row"]

logger = logging.getLogger("pywatt.stores")

T = TypeVar("T")

_CLEANING = 5.0  # seconds that a rollback and the way back into the pool may take
_AGAIN = 0.25  # seconds until a refused password is tried again, where it may rotate
_GRACE = 30.0  # seconds that connections of a URL that was rotated away may still be used
_CHUNK = 100  # rows
_LOOKING = 1.0  # seconds that a check waits for a connection
_BUSY = 10.0  # seconds within which a statement has come to its end where a pool is exhausted and well


class Connection:
    """One connection, from `acquire` to the end of its block. For one task at a time."""

    def __init__(self, database: Database, session: Session) -> None:
        self._database = database
        self._session = session
        self._busy = False
        self._over = False
        self._depth = 0  # of transactions
        self._open = False  # a transaction that was begun by its steps
        self._chunks: AsyncGenerator[Sequence[Row], None] | None = None  # of a loop that is not over

    async def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """All rows. Placeholders are `$1`, `$2` with values in order, or `:name` with a dict or keywords. Raises
        StoreError."""
        arguments = self._arguments(query, args, named)
        return list(await self._run("fetch", lambda: self._session.fetch(query, arguments, None)))

    async def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """The first row; None where there is none."""
        arguments = self._arguments(query, args, named)
        rows = await self._run("fetchrow", lambda: self._session.fetch(query, arguments, 1))
        return rows[0] if rows else None

    async def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """One value of the first row; None where there is no row."""
        arguments = self._arguments(query, args, named)
        rows = await self._run("fetchval", lambda: self._session.fetch(query, arguments, 1))
        return rows[0][column] if rows else None

    async def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """How many rows the statement has changed; 0 where it changes none."""
        arguments = self._arguments(query, args, named)
        return await self._run("execute", lambda: self._session.execute(query, arguments))

    async def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """The statement once for each, all of them or none; how many rows they have changed together."""
        listed: list[Arguments] = [each if isinstance(each, Mapping) else tuple(each) for each in many]
        if not listed:
            return 0
        return await self._run("executemany", lambda: self._session.execute_many(query, listed))

    # The steps of a transaction, for who serves a connection to somebody else; others use `transaction`.

    @property
    def in_transaction(self) -> bool:
        return self._open

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        await self._run("begin", lambda: self._session.begin(readonly=readonly, isolation=isolation))
        self._open = True

    async def commit(self) -> None:
        self._open = False
        await self._run("commit", self._session.commit)

    async def savepoint(self, name: str) -> None:
        await self._run("begin", lambda: self._session.savepoint(name))

    async def release_savepoint(self, name: str) -> None:
        await self._run("commit", lambda: self._session.release_savepoint(name))

    async def rollback_to(self, name: str) -> None:
        await self._run("rollback", lambda: self._session.rollback_to(name))

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        return await self._run("init", lambda: self._session.apply_once(key, digest, script))

    async def iterate(self, query: str, /, *args: Any, chunk: int = _CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
        """The rows one by one, `chunk` of them in memory at a time. Nothing else can be asked of this connection
        until the loop is over."""
        arguments = self._arguments(query, args, named)
        self._enter()
        chunks = self._chunks = self._session.iterate(query, arguments, chunk)
        database, began = self._database, perf_counter()
        try:
            while True:
                try:
                    async with asyncio.timeout(database.statement_timeout):
                        rows = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._late() from None
                except StoreError as error:
                    database.failed(error)
                    raise
                for row in rows:
                    yield row
        finally:
            self._busy, self._chunks = False, None
            await _finished(chunks.aclose())
            database.stats.observe("iterate", perf_counter() - began)

    @asynccontextmanager
    async def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> AsyncIterator[None]:
        """All or nothing: committed at the end of the block, rolled back where it raises. A transaction within one is
        a savepoint. `isolation`: read_committed, repeatable_read or serializable; left out, as the server has it.

        On SQLite every transaction is serializable, and one that is not `readonly` waits for its turn to write, up to
        `pool.timeout`. Raises StoreError: `conflict` where running it again may succeed; where the connection is lost
        during the commit, nobody knows whether it has happened, and the message says so.
        """
        if self._depth and isolation is not None:
            raise StoreError(self._database.store, "arguments", "the isolation of a nested transaction is that around")
        name = f"pywatt_{self._depth}"
        session, nested = self._session, self._depth > 0
        if nested:
            await self._run("begin", lambda: session.savepoint(name))
        else:
            await self._run("begin", lambda: session.begin(readonly=readonly, isolation=isolation))
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            await self._roll_back(name if nested else None)
            raise
        self._depth -= 1
        if nested:
            await self._run("commit", lambda: session.release_savepoint(name))
            return
        try:
            await self._run("commit", session.commit)
        except BaseException as error:
            await self._roll_back(None)
            if isinstance(error, StoreError) and error.code == "timeout":
                message = f"{error.message}; whether the transaction was committed is not known"
                raise StoreError(error.store, error.code, message) from error
            raise

    async def _roll_back(self, savepoint: str | None) -> None:
        """Never raises what would hide why: a connection that cannot roll back is closed instead."""
        session = self._session
        if session.broken:
            return
        rolled = session.rollback() if savepoint is None else session.rollback_to(savepoint)
        task = asyncio.ensure_future(_bounded(rolled))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(StoreError, TimeoutError):
                await task
            session.broken = session.broken or task.cancelled() or task.exception() is not None
            raise
        except (StoreError, TimeoutError) as error:
            session.broken = True
            logger.warning("%s: a transaction could not be rolled back: %s", self._database.store, error)

    # One statement at a time ----------------------------------------------------------------------------------------

    def _arguments(self, query: str, args: Sequence[Any], named: Mapping[str, Any]) -> Arguments:
        return arguments_of(query, args, named, self._database.store)

    def _enter(self) -> None:
        store = self._database.store
        if self._over:
            raise StoreError(store, "connection", "the connection has been given back; acquire another one")
        if self._busy:
            message = "the connection is busy with another statement; acquire one for each task"
            raise StoreError(store, "connection", message)
        if self._session.broken:
            raise StoreError(store, "connection", "the connection is lost, and what its transaction did with it")
        self._busy = True

    async def _run(self, operation: str, statement: Callable[[], Awaitable[T]]) -> T:
        self._enter()
        database, began = self._database, perf_counter()
        try:
            async with asyncio.timeout(database.statement_timeout):
                result = await statement()
            database.answered = perf_counter()
            return result
        except TimeoutError:
            raise self._late() from None
        except StoreError as error:
            database.failed(error)
            raise
        finally:
            self._busy = False
            database.stats.observe(operation, perf_counter() - began)

    def _late(self) -> StoreError:
        database = self._database
        message = f"no answer within {database.statement_timeout or 0:g}s (statement_timeout)"
        error = StoreError(database.store, "timeout", message)
        database.failed(error)
        return error

    async def _end(self, pool: Pool) -> None:
        """Give the connection back, with what a loop that was left has open."""
        self._over = True
        try:
            if self._chunks is not None:
                with suppress(StoreError):
                    await self._chunks.aclose()
        finally:
            await pool.release(self._session)


async def _bounded(work: Awaitable[None]) -> None:
    async with asyncio.timeout(_CLEANING):
        await work


class Database:
    """`app_state.db`, and each of `app_state.databases`. Its methods may be used by any number of tasks of the host's
    event loop; each call outside of `acquire` and `transaction` uses a connection of its own."""

    def __init__(
        self,
        name: str,
        make: Callable[[str], Awaitable[Pool]],
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
        self._pool: Pool | None = None
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
            await _finished(connection._end(pool))

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

    async def iterate(self, query: str, /, *args: Any, chunk: int = _CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
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
    def pool(self) -> Pool | None:
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

    async def replacement(self, url: str) -> Pool:
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

    def swap(self, pool: Pool) -> None:
        """Use this pool from now on; the connections of the old one are closed as they come back."""
        old, self._pool = self._pool, pool
        self._swapped.set()
        self._swapped = asyncio.Event()
        if old is not None:
            self.drop(old, _GRACE)

    def drop(self, pool: Pool, grace: float = 0.0) -> None:
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

    async def _take(self, timeout: float) -> tuple[Pool, Session]:
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
                    await _finished(pool.release(session))
                    raise
            return pool, session

    async def _initialise(self, session: Session) -> None:
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


async def _finished(work: Awaitable[T]) -> T:
    """Done in any case, a cancellation comes after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=_CLEANING)
        raise
