"""Stores of the orchestrator, on the side of the orchestrator: runs the operations that modules send."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, get_args

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.caches.backend import CacheBackend
from pywatt_host.stores.databases.backend import Isolation
from pywatt_host.stores.databases.connection import Connection
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments
from pywatt_host.stores.proxy.wire import pack_rows, unpack_arguments

_MAX_CHUNK = 1_000_000  # rows
_DEFAULT_CHUNK = 1000  # rows

Operation = Callable[[Mapping[str, Any]], Awaitable[Any]]


class ServedDatabase:
    """One connection of a module to a database.

    It holds a connection of the pool only during transactions and loops over rows. If it closes during a transaction,
    the transaction is rolled back.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._stack: AsyncExitStack | None = None  # while a connection is held
        self._held: Connection | None = None
        self._rows: AsyncGenerator[Row, None] | None = None
        self._chunk = _DEFAULT_CHUNK
        self._operations: dict[str, Operation] = {
            "fetch": self._fetch,
            "execute": self._execute,
            "execute_many": self._execute_many,
            "cursor": self._cursor,
            "next": self._next,
            "close_cursor": self._close_cursor,
            "begin": self._begin,
            "commit": self._commit,
            "rollback": self._rollback,
            "savepoint": self._savepoint,
            "release_savepoint": self._release_savepoint,
            "rollback_to": self._rollback_to,
            "apply_once": self._apply_once,
            "reset": self._reset,
        }

    async def run(self, operation: str, params: Mapping[str, Any]) -> Any:
        """Run an operation and return its result as JSON. Raises StoreError."""
        run = self._operations.get(operation)
        if run is None:
            raise StoreError(self._database.store, "arguments", f"there is no operation {operation[:40]!r}")
        return await run(params)

    async def close(self) -> None:
        """Return the connection to the pool, if one is held."""
        if self._rows is not None:
            rows, self._rows = self._rows, None
            await rows.aclose()
        stack, self._stack, self._held = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _hold(self) -> Connection:
        if self._held is None:
            stack = AsyncExitStack()
            self._held = await stack.enter_async_context(self._database.acquire())
            self._stack = stack
        return self._held

    @property
    def _target(self) -> Connection | Database:
        return self._held if self._held is not None else self._database

    def _statement(self, params: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        query = _text(params, "query", self._database.store)
        arguments = unpack_arguments(params, self._database.store)
        return query, *_spread(arguments)

    async def _fetch(self, params: Mapping[str, Any]) -> Any:
        query, args, named = self._statement(params)
        if params.get("most") == 1:
            row = await self._target.fetchrow(query, *args, **named)
            return pack_rows([row] if row is not None else [], self._database.store)
        return pack_rows(await self._target.fetch(query, *args, **named), self._database.store)

    async def _execute(self, params: Mapping[str, Any]) -> Any:
        query, args, named = self._statement(params)
        return await self._target.execute(query, *args, **named)

    async def _execute_many(self, params: Mapping[str, Any]) -> Any:
        store = self._database.store
        many = params.get("many")
        if not isinstance(many, list) or not all(isinstance(each, dict) for each in many):
            raise StoreError(store, "arguments", "many must be a list of arguments")
        listed = [unpack_arguments(each, store) for each in many]
        return await self._target.executemany(_text(params, "query", store), listed)

    async def _cursor(self, params: Mapping[str, Any]) -> Any:
        await self._close_cursor({})
        query, args, named = self._statement(params)
        chunk = params.get("chunk")
        self._chunk = min(max(chunk, 1), _MAX_CHUNK) if isinstance(chunk, int) else _DEFAULT_CHUNK
        self._rows = (await self._hold()).iterate(query, *args, chunk=self._chunk, **named)

    async def _next(self, params: Mapping[str, Any]) -> Any:
        found: list[Row] = []
        if self._rows is not None:
            async for row in self._rows:
                found.append(row)
                if len(found) >= self._chunk:
                    break
        if not found:
            await self._close_cursor({})
        return pack_rows(found, self._database.store)

    async def _close_cursor(self, params: Mapping[str, Any]) -> Any:
        if self._rows is not None:
            rows, self._rows = self._rows, None
            await rows.aclose()
            if self._held is not None and not self._held.in_transaction:
                await self.close()

    async def _begin(self, params: Mapping[str, Any]) -> Any:
        isolation = params.get("isolation")
        if isolation is not None and isolation not in get_args(Isolation):
            message = f"isolation must be one of {', '.join(get_args(Isolation))}"
            raise StoreError(self._database.store, "arguments", message)
        connection = await self._hold()
        try:
            await connection.begin(readonly=bool(params.get("readonly")), isolation=isolation)
        except BaseException:
            await self.close()
            raise

    async def _commit(self, params: Mapping[str, Any]) -> Any:
        try:
            await self._in_transaction().commit()
        finally:
            await self.close()

    async def _rollback(self, params: Mapping[str, Any]) -> Any:
        await self.close()  # a connection that is returned to the pool is rolled back

    async def _savepoint(self, params: Mapping[str, Any]) -> Any:
        await self._in_transaction().savepoint(self._savepoint_name(params))

    async def _release_savepoint(self, params: Mapping[str, Any]) -> Any:
        await self._in_transaction().release_savepoint(self._savepoint_name(params))

    async def _rollback_to(self, params: Mapping[str, Any]) -> Any:
        await self._in_transaction().rollback_to(self._savepoint_name(params))

    def _in_transaction(self) -> Connection:
        if self._held is None:
            raise StoreError(self._database.store, "connection", "no transaction is open")
        return self._held

    def _savepoint_name(self, params: Mapping[str, Any]) -> str:
        name = _text(params, "name", self._database.store)
        if not name.isidentifier() or not name.isascii() or len(name) > 60:  # it becomes part of a statement
            raise StoreError(self._database.store, "arguments", "the name of a savepoint must be an identifier")
        return name

    async def _apply_once(self, params: Mapping[str, Any]) -> Any:
        key, digest, script = (_text(params, name, self._database.store) for name in ("key", "digest", "script"))
        async with self._database.acquire() as connection:
            return await connection.apply_once(key, digest, script)

    async def _reset(self, params: Mapping[str, Any]) -> Any:
        await self.close()


class ServedCache:
    """One connection of a module to a cache. The module puts its namespace before the keys."""

    def __init__(self, store: str, backend: Callable[[], CacheBackend]) -> None:
        self._store = store
        self._backend = backend

    async def run(self, operation: str, params: Mapping[str, Any]) -> Any:
        """Run an operation and return its result as JSON. Raises StoreError."""
        backend = self._backend()
        if operation == "ping":
            return await backend.ping()
        if operation in ("get_many", "delete"):
            keys = params.get("keys")
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise StoreError(self._store, "arguments", "keys must be a list of strings")
            if operation == "delete":
                return await backend.delete(keys)
            return [_packed(value) for value in await backend.get_many(keys)]
        if operation == "set_many":
            pairs = params.get("pairs")
            if not isinstance(pairs, dict):
                raise StoreError(self._store, "arguments", "pairs must be a mapping")
            return await backend.set_many({key: self._bytes(value) for key, value in pairs.items()}, self._ttl(params))
        if operation == "clear":
            return await backend.clear(_text(params, "prefix", self._store))
        key = _text(params, "key", self._store)
        if operation == "get":
            return _packed(await backend.get(key))
        if operation == "exists":
            return await backend.exists(key)
        if operation == "set":
            return await backend.set(key, self._bytes(params.get("value")), self._ttl(params))
        if operation == "add":
            return await backend.add(key, self._bytes(params.get("value")), self._ttl(params))
        if operation == "increment":
            delta = params.get("delta")
            return await backend.increment(key, delta if isinstance(delta, int) else 1, self._ttl(params))
        if operation == "release":
            return await backend.release(key, self._bytes(params.get("value")))
        raise StoreError(self._store, "arguments", f"there is no operation {operation[:40]!r}")

    async def close(self) -> None:
        return

    def _bytes(self, value: Any) -> bytes:
        try:
            return b64decode(value, validate=True)
        except (ValueError, TypeError):
            raise StoreError(self._store, "arguments", "a value must be base64") from None

    def _ttl(self, params: Mapping[str, Any]) -> float | None:
        ttl = params.get("ttl")
        if ttl is None or (isinstance(ttl, int | float) and not isinstance(ttl, bool) and ttl > 0):
            return ttl
        raise StoreError(self._store, "arguments", "ttl must be more than 0 seconds, or null")


def _packed(value: bytes | None) -> str | None:
    return b64encode(value).decode() if value is not None else None


def _text(params: Mapping[str, Any], name: str, store: str) -> str:
    value = params.get(name)
    if not isinstance(value, str):
        raise StoreError(store, "arguments", f"{name} must be a string")
    return value


def _spread(arguments: Arguments) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return positional and keyword arguments for a call."""
    return ((), dict(arguments)) if isinstance(arguments, Mapping) else (tuple(arguments), {})
