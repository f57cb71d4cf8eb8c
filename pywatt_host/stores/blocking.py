"""The blocking face of databases and caches, for code in threads: each call runs on the host's event loop."""

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
    """Runs a coroutine on the event loop and gives what it returns or raises; `name` is for errors."""

    def __call__(self, name: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T: ...


class _Statements:
    """What a database and a connection have in common."""

    def __init__(self, target: Database | Connection, call: Call) -> None:
        self._target = target
        self._call = call

    def fetch(self, query: str, /, *args: Any, **named: Any) -> list[Row]:
        """As Connection.fetch."""
        return self._call("db.fetch", lambda: self._target.fetch(query, *args, **named))

    def fetchrow(self, query: str, /, *args: Any, **named: Any) -> Row | None:
        """As Connection.fetchrow."""
        return self._call("db.fetchrow", lambda: self._target.fetchrow(query, *args, **named))

    def fetchval(self, query: str, /, *args: Any, column: int | str = 0, **named: Any) -> Any:
        """As Connection.fetchval."""
        return self._call("db.fetchval", lambda: self._target.fetchval(query, *args, column=column, **named))

    def execute(self, query: str, /, *args: Any, **named: Any) -> int:
        """As Connection.execute."""
        return self._call("db.execute", lambda: self._target.execute(query, *args, **named))

    def executemany(self, query: str, many: Iterable[Sequence[Any] | Mapping[str, Any]]) -> int:
        """As Connection.executemany."""
        return self._call("db.executemany", lambda: self._target.executemany(query, many))

    def iterate(self, query: str, /, *args: Any, chunk: int = 100, **named: Any) -> Iterator[Row]:
        """As Connection.iterate."""
        rows = self._target.iterate(query, *args, chunk=chunk, **named)

        async def some() -> list[Row]:
            found: list[Row] = []
            async for row in rows:
                found.append(row)
                if len(found) == chunk:
                    break
            return found

        try:
            while found := self._call("db.iterate", some):
                yield from found
        finally:
            self._call("db.iterate", rows.aclose)


class SyncConnection(_Statements):
    """As Connection."""

    def __init__(self, target: Connection, call: Call) -> None:
        super().__init__(target, call)
        self._connection = target

    @contextmanager
    def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> Iterator[None]:
        """As Connection.transaction."""
        transaction = self._connection.transaction(readonly=readonly, isolation=isolation)
        with _entered(transaction, self._call, "db.transaction"):
            yield


class SyncDatabase(_Statements):
    """As Database, from any thread but that of the event loop."""

    def __init__(self, target: Database, call: Call) -> None:
        super().__init__(target, call)
        self._database = target

    @contextmanager
    def acquire(self, timeout: float | None = None) -> Iterator[SyncConnection]:
        """As Database.acquire."""
        with _entered(self._database.acquire(timeout), self._call, "db.acquire") as connection:
            yield SyncConnection(connection, self._call)

    @contextmanager
    def transaction(self, *, readonly: bool = False, isolation: Isolation | None = None) -> Iterator[SyncConnection]:
        """As Database.transaction."""
        transaction = self._database.transaction(readonly=readonly, isolation=isolation)
        with _entered(transaction, self._call, "db.transaction") as connection:
            yield SyncConnection(connection, self._call)


@contextmanager
def _entered(context: Any, call: Call, name: str) -> Iterator[Any]:
    """An asynchronous context around a block that is not."""
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
    """As Cache, from any thread but that of the event loop."""

    def __init__(self, target: Cache, call: Call) -> None:
        self._target = target
        self._call = call

    def get(self, key: str, default: Any = None) -> Any:
        """As Cache.get."""
        return self._call("cache.get", lambda: self._target.get(key, default))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """As Cache.get_many."""
        return self._call("cache.get_many", lambda: self._target.get_many(keys))

    def set(self, key: str, value: Any, expire: Expire = ABSENT) -> None:
        """As Cache.set."""
        self._call("cache.set", lambda: self._target.set(key, value, expire))

    def set_many(self, values: Mapping[str, Any], expire: Expire = ABSENT) -> None:
        """As Cache.set_many."""
        self._call("cache.set_many", lambda: self._target.set_many(values, expire))

    def delete(self, *keys: str) -> int:
        """As Cache.delete."""
        return self._call("cache.delete", lambda: self._target.delete(*keys))

    def exists(self, key: str) -> bool:
        """As Cache.exists."""
        return self._call("cache.exists", lambda: self._target.exists(key))

    def increment(self, key: str, delta: int = 1, expire: Expire = ABSENT) -> int:
        """As Cache.increment."""
        return self._call("cache.increment", lambda: self._target.increment(key, delta, expire))

    def clear(self) -> None:
        """As Cache.clear."""
        self._call("cache.clear", self._target.clear)

    def get_or_set(self, key: str, factory: Callable[[], Any] | Any, expire: Expire = ABSENT) -> Any:
        """As Cache.get_or_set; a `factory` that is no coroutine function runs in a thread."""
        made = factory
        if callable(factory) and not inspect.iscoroutinefunction(factory):
            made = partial(asyncio.to_thread, factory)
        return self._call("cache.get_or_set", lambda: self._target.get_or_set(key, made, expire))
