"""The connection that applications use: statements, transactions, loops over rows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any, Protocol, TypeVar

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.spans import UNRECORDED, AnySpan
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation, commit_unknown
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments, arguments_of
from pywatt_host.stores.spans import StoreSpans
from pywatt_host.stores.stats import Stats

logger = logging.getLogger("pywatt.stores")

T = TypeVar("T")

CHUNK = 100  # rows of a loop that are in memory at a time
_CLEANUP_TIMEOUT = 5.0  # seconds that a rollback, or the return to the pool, may take


class Owner(Protocol):
    """The database that a connection belongs to."""

    store: str  # the manifest key
    stats: Stats
    statement_timeout: float | None  # seconds
    answered: float  # when the last statement ended, as perf_counter counts
    spans: StoreSpans

    def failed(self, error: StoreError) -> None:
        """Count the error, and note it for the current request."""


class Connection:
    """One connection of a database, for the block of `Database.acquire` or `Database.transaction`.

    Use it in one task at a time; a second statement at the same time raises StoreError (`connection`). It is invalid
    after the block. In queries, placeholders are `$1`, `$2` with values in order, or `:name` with a dict or keyword
    arguments, for every kind of database. Every method raises StoreError; see Database for an example.
    """

    def __init__(self, database: Owner, session: DatabaseSession) -> None:
        self._database = database
        self._session = session
        self._busy = False
        self._over = False
        self._depth = 0  # of nested transactions
        self._open = False  # whether `begin` has begun a transaction
        self._chunks: AsyncGenerator[Sequence[Row], None] | None = None  # of a loop that has not ended

    async def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """Run the query and return all rows."""
        arguments = self._arguments(query, args, named)
        return list(await self._run("fetch", lambda: self._session.fetch(query, arguments, None), query))

    async def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """Run the query and return the first row, or None if there is no row."""
        arguments = self._arguments(query, args, named)
        rows = await self._run("fetchrow", lambda: self._session.fetch(query, arguments, 1), query)
        return rows[0] if rows else None

    async def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """Run the query and return one value of the first row, or None if there is no row.

        `column` is the position of the value, from 0, or the name of its column.
        """
        arguments = self._arguments(query, args, named)
        rows = await self._run("fetchval", lambda: self._session.fetch(query, arguments, 1), query)
        return rows[0][column] if rows else None

    async def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """Run the statement and return how many rows it changed; 0 if it changes none."""
        arguments = self._arguments(query, args, named)
        return await self._run("execute", lambda: self._session.execute(query, arguments), query)

    async def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """Run the statement once for each entry of `many`, and return how many rows they changed together.

        Either all of them take effect or none.
        """
        listed: list[Arguments] = [each if isinstance(each, Mapping) else tuple(each) for each in many]
        if not listed:
            return 0
        return await self._run("executemany", lambda: self._session.execute_many(query, listed), query, len(listed))

    # The steps of a transaction, for the orchestrator's stores, which get them as messages. Use `transaction`
    # elsewhere.

    @property
    def in_transaction(self) -> bool:
        return self._open

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        await self._run("begin", lambda: self._session.begin(readonly=readonly, isolation=isolation), "BEGIN")
        self._open = True

    async def commit(self) -> None:
        self._open = False
        await self._run("commit", self._session.commit, "COMMIT")

    async def savepoint(self, name: str) -> None:
        await self._run("begin", lambda: self._session.savepoint(name), "SAVEPOINT")

    async def release_savepoint(self, name: str) -> None:
        await self._run("commit", lambda: self._session.release_savepoint(name), "RELEASE SAVEPOINT")

    async def rollback_to(self, name: str) -> None:
        await self._run("rollback", lambda: self._session.rollback_to(name), "ROLLBACK TO SAVEPOINT")

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        return await self._run("init", lambda: self._session.apply_once(key, digest, script))

    async def iterate(self, query: str, /, *args: Any, chunk: int = CHUNK, **named: Any) -> AsyncGenerator[Row, None]:
        """Yield the rows one by one, with `chunk` rows in memory at a time.

        The connection runs no other statement until the loop ends.
        """
        arguments = self._arguments(query, args, named)
        self._enter()
        chunks = self._chunks = self._session.iterate(query, arguments, chunk)
        database, began = self._database, perf_counter()
        span = database.spans.statement(query)
        try:
            while True:
                try:
                    async with asyncio.timeout(database.statement_timeout):
                        rows = await anext(chunks)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise self._timed_out(span) from None
                except StoreError as error:
                    database.failed(error)
                    database.spans.fail(span, error)
                    raise
                for row in rows:
                    yield row
        finally:
            self._busy, self._chunks = False, None
            try:
                await finished(chunks.aclose())
            finally:
                span.end()
            database.stats.observe("iterate", perf_counter() - began)

    @asynccontextmanager
    async def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> AsyncIterator[None]:
        """Run the block in a transaction: commit it at the end, or roll it back if the block raises.

        A transaction within another one is a savepoint. `isolation` is `read_committed`, `repeatable_read` or
        `serializable`; the default is the server's. On SQLite, every transaction is serializable, and one that is not
        `readonly` waits up to `pool.timeout` for its turn to write.

        Raises StoreError: `conflict` if running the transaction again may succeed. If the connection is lost during the
        commit, it is unknown whether the commit happened, and the message says so.
        """
        if self._depth and isolation is not None:
            message = "a nested transaction has the isolation of the outer one; leave `isolation` out"
            raise StoreError(self._database.store, "arguments", message)
        name = f"pywatt_{self._depth}"
        session, nested = self._session, self._depth > 0
        if nested:
            await self._run("begin", lambda: session.savepoint(name), "SAVEPOINT")
        else:
            await self._run("begin", lambda: session.begin(readonly=readonly, isolation=isolation), "BEGIN")
        self._depth += 1
        try:
            yield
        except BaseException:
            self._depth -= 1
            await self._roll_back(name if nested else None)
            raise
        self._depth -= 1
        if nested:
            await self._run("commit", lambda: session.release_savepoint(name), "RELEASE SAVEPOINT")
            return
        try:
            await self._run("commit", session.commit, "COMMIT")
        except BaseException as error:
            await self._roll_back(None)
            if isinstance(error, StoreError) and error.code == "timeout":
                raise commit_unknown(error) from error
            raise

    async def _roll_back(self, savepoint: str | None) -> None:
        """Roll back. If that fails, the connection is marked as broken; nothing is raised that would hide the cause."""
        session = self._session
        if session.broken:
            return
        span = self._database.spans.statement("ROLLBACK" if savepoint is None else "ROLLBACK TO SAVEPOINT")
        rollback = session.rollback() if savepoint is None else session.rollback_to(savepoint)
        task = asyncio.ensure_future(_bounded(rollback))
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            with suppress(StoreError, TimeoutError):
                await task
            session.broken = session.broken or task.cancelled() or task.exception() is not None
            raise
        except (StoreError, TimeoutError) as error:
            session.broken = True
            span.fail(error.code if isinstance(error, StoreError) else "timeout")
            logger.warning(
                "%s: a transaction could not be rolled back; closing its connection: %s", self._database.store, error
            )
        finally:
            span.end()

    # One statement at a time ----------------------------------------------------------------------------------------

    def _arguments(self, query: str, args: Sequence[Any], named: Mapping[str, Any]) -> Arguments:
        return arguments_of(query, args, named, self._database.store)

    def _enter(self) -> None:
        store = self._database.store
        if self._over:
            raise StoreError(store, "connection", "the connection was returned to the pool; acquire another one")
        if self._busy:
            message = "the connection is busy with another statement; acquire a connection for each task"
            raise StoreError(store, "connection", message)
        if self._session.broken:
            message = "the connection is lost, and its transaction with it; acquire another one"
            raise StoreError(store, "connection", message)
        self._busy = True

    async def _run(self, operation: str, statement: Callable[[], Awaitable[T]], query: str = "", batch: int = 0) -> T:
        """Run a statement. `query` is its text, for its span, and `batch` how many sets of values it has."""
        self._enter()
        database, began = self._database, perf_counter()
        span = database.spans.statement(query, batch)
        try:
            async with asyncio.timeout(database.statement_timeout):
                result = await statement()
            database.answered = perf_counter()
            return result
        except TimeoutError:
            raise self._timed_out(span) from None
        except StoreError as error:
            database.failed(error)
            database.spans.fail(span, error)
            raise
        except BaseException as error:
            span.fail(type(error).__qualname__)
            raise
        finally:
            self._busy = False
            if span is not UNRECORDED:
                span.end()
            database.stats.observe(operation, perf_counter() - began)

    async def _probe(self) -> None:
        """Raise StoreError if the database does not answer a simple query."""
        await self._run("check", lambda: self._session.fetch("SELECT 1", (), 1))

    def _timed_out(self, span: AnySpan) -> StoreError:
        database = self._database
        message = f"no answer within {database.statement_timeout or 0:g}s (statement_timeout)"
        error = StoreError(database.store, "timeout", message)
        database.failed(error)
        database.spans.fail(span, error)
        return error

    async def _give_back(self, pool: ConnectionPool) -> None:
        """Return the connection to the pool, and close a loop over rows that did not end."""
        self._over = True
        try:
            if self._chunks is not None:
                with suppress(StoreError):
                    await self._chunks.aclose()
        finally:
            await pool.release(self._session)


async def _bounded(work: Awaitable[None]) -> None:
    async with asyncio.timeout(_CLEANUP_TIMEOUT):
        await work


async def finished(work: Awaitable[T]) -> T:
    """Finish `work` even if this task is cancelled; the cancellation is raised after it."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task], timeout=_CLEANUP_TIMEOUT)
        raise
