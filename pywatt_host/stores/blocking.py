"""Databases and caches with blocking calls, for code in threads. Each call runs on the host's event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pywatt_host.stores.caches.cache import ABSENT, Cache, Expire
from pywatt_host.stores.databases.backend import Isolation
from pywatt_host.stores.databases.row import Row

if TYPE_CHECKING:
    from pywatt_host.stores.databases.database import Connection, Database

T = TypeVar("T")


class Call(Protocol):
    """Runs the coroutine that `make` returns on the event loop, and returns its result or raises its exception.

    `name` names the call in errors.
    """

    def __call__(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T: ...


class _Statements:
    """The methods that a database and a connection have in common."""

    def __init__(self, target: Database | Connection, call: Call) -> None:
        self._target = target
        self._call = call

    def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """Like Connection.fetch, blocking."""
        return self._call("db.fetch", lambda: self._target.fetch(query, *args, **named))

    def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """Like Connection.fetchrow, blocking."""
        return self._call("db.fetchrow", lambda: self._target.fetchrow(query, *args, **named))

    def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """Like Connection.fetchval, blocking."""
        return self._call("db.fetchval", lambda: self._target.fetchval(query, *args, column=column, **named))

    def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """Like Connection.execute, blocking."""
        return self._call("db.execute", lambda: self._target.execute(query, *args, **named))

    def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """Like Connection.executemany, blocking."""
        return self._call("db.executemany", lambda: self._target.executemany(query, many))

    def iterate(self, query: str, /, *args: Any, chunk: int = 100, **named: Any) -> Iterator[Row]:
        """Like Connection.iterate, blocking."""
        rows = self._target.iterate(query, *args, chunk=chunk, **named)

        async def next_chunk() -> list[Row]:
            found: list[Row] = []
            async for row in rows:
                found.append(row)
                if len(found) == chunk:
                    break
            return found

        try:
            while found := self._call("db.iterate", next_chunk):
                yield from found
        finally:
            self._call("db.iterate", rows.aclose)


class SyncConnection(_Statements):
    """One connection of a database, with blocking calls. See Connection."""

    def __init__(self, target: Connection, call: Call) -> None:
        super().__init__(target, call)
        self._connection = target

    @contextmanager
    def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> Iterator[None]:
        """Like Connection.transaction, for a `with` block."""
        transaction = self._connection.transaction(readonly=readonly, isolation=isolation)
        with _entered(transaction, self._call, "db.transaction"):
            yield


class SyncDatabase(_Statements):
    """`app_state.sync.db`: a database with blocking calls. See Database.

    It may be used from any thread except the thread of the event loop.
    """

    def __init__(self, target: Database, call: Call) -> None:
        super().__init__(target, call)
        self._database = target

    @contextmanager
    def acquire(self, timeout: float | None = None) -> Iterator[SyncConnection]:
        """Like Database.acquire, for a `with` block."""
        with _entered(self._database.acquire(timeout), self._call, "db.acquire") as connection:
            yield SyncConnection(connection, self._call)

    @contextmanager
    def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> Iterator[SyncConnection]:
        """Like Database.transaction, for a `with` block."""
        transaction = self._database.transaction(readonly=readonly, isolation=isolation)
        with _entered(transaction, self._call, "db.transaction") as connection:
            yield SyncConnection(connection, self._call)


@contextmanager
def _entered(context: Any, call: Call, name: str) -> Iterator[Any]:
    """Enter an asynchronous context around a block of blocking code."""
    stack = AsyncExitStack()
    value = call(name, partial(stack.enter_async_context, context))
    error: tuple[Any, Any, Any] = (None, None, None)
    try:
        yield value
    except BaseException as raised:
        error = (type(raised), raised, raised.__traceback__)
        raise
    finally:
        call(name, partial(stack.__aexit__, *error))


class SyncCache:
    """`app_state.sync.cache`: a cache with blocking calls. See Cache.

    It may be used from any thread except the thread of the event loop.
    """

    def __init__(self, target: Cache, call: Call) -> None:
        self._target = target
        self._call = call

    def get(self, key: str, default: Any = None) -> Any:
        """Like Cache.get, blocking."""
        return self._call("cache.get", lambda: self._target.get(key, default))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Like Cache.get_many, blocking."""
        return self._call("cache.get_many", lambda: self._target.get_many(keys))

    def set(self, key: str, value: Any, expire: Expire = ABSENT) -> None:
        """Like Cache.set, blocking."""
        self._call("cache.set", lambda: self._target.set(key, value, expire))

    def set_many(self, values: Mapping[str, Any], expire: Expire = ABSENT) -> None:
        """Like Cache.set_many, blocking."""
        self._call("cache.set_many", lambda: self._target.set_many(values, expire))

    def delete(self, *keys: str) -> int:
        """Like Cache.delete, blocking."""
        return self._call("cache.delete", lambda: self._target.delete(*keys))

    def exists(self, key: str) -> bool:
        """Like Cache.exists, blocking."""
        return self._call("cache.exists", lambda: self._target.exists(key))

    def increment(self, key: str, delta: int = 1, expire: Expire = ABSENT) -> int:
        """Like Cache.increment, blocking."""
        return self._call("cache.increment", lambda: self._target.increment(key, delta, expire))

    def clear(self) -> None:
        """Like Cache.clear, blocking."""
        self._call("cache.clear", self._target.clear)

    def get_or_set(self, key: str, factory: Callable[[], Any] | Any, expire: Expire = ABSENT) -> Any:
        """Like Cache.get_or_set, blocking. A `factory` that is not a coroutine function runs in a thread."""
        made = factory
        if callable(factory) and not inspect.iscoroutinefunction(factory):
            made = partial(asyncio.to_thread, factory)
        return self._call("cache.get_or_set", lambda: self._target.get_or_set(key, made, expire))
