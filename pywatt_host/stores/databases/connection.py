"""One connection of a database, as applications see it: statements, transactions, loops over rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments, arguments_of

if TYPE_CHECKING:
    from pywatt_host.stores.databases.database import Database

logger = logging.getLogger("pywatt.stores")

T = TypeVar("T")

CHUNK = 100  # rows of a loop that are in memory at a time
_CLEANING = 5.0  # seconds that a rollback and the way back into the pool may take


class Connection:
    """One connection, from `acquire` to the end of its block. For one task at a time."""

    def __init__(self, database: Database, session: DatabaseSession) -> None:
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

    async def iterate(self, query: str, /, *args: Any, chunk: int = CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
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
            await finished(chunks.aclose())
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

    async def _end(self, pool: ConnectionPool) -> None:
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


async def finished(work: Awaitable[T]) -> T:
    """Done in any case, a cancellation comes after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=_CLEANING)
        raise
