"""Stores of the orchestrator: each operation is one message there and one back."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from pywatt_host.exceptions import MessagingError, StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments
from pywatt_host.stores.proxy.remote import Remote
from pywatt_host.stores.proxy.wire import error_of, pack_arguments, unpack_rows

DATABASE, CACHE = "Database", "Cache"

_CONNECTING = 5.0  # seconds
_LEEWAY = 2.0  # seconds that an answer may take besides what it answers
_LONGEST = 3600.0  # seconds for a statement that has no limit
_CLOSING = 1.0  # seconds to say that a connection is not needed any more


class _Wired:
    """One connection to one store of the orchestrator."""

    def __init__(self, store: str, name: str, kind: str, remote: Remote) -> None:
        self.store = store
        self._name = name
        self._kind = kind
        self._remote = remote
        self._connection = ""

    async def connect(self, timeout: float = _CONNECTING) -> None:
        """Raises StoreError."""
        try:
            self._connection = await self._remote.connect(self._kind, {"store": self._name}, timeout)
        except MessagingError as error:
            raise self._translated(error) from error

    async def ask(self, operation: str, params: Mapping[str, Any], timeout: float) -> Any:
        """The result. Raises StoreError."""
        try:
            return await self._remote.operate(self._connection, self._kind, operation, params, timeout)
        except MessagingError as error:
            raise self._translated(error) from error

    def _translated(self, error: MessagingError) -> StoreError:
        if error.code == "refused":
            return error_of(self.store, error.message)
        code = {"timeout": "timeout", "too_large": "arguments"}.get(error.code, "unavailable")
        return StoreError(self.store, code, f"orchestrator:{self._name}: {error.message}")


class ProxiedSession:
    """One connection of the orchestrator's database. It costs the orchestrator's pool one only within transactions."""

    def __init__(self, wired: _Wired, statement_timeout: float | None) -> None:
        self.broken = False
        self._wired = wired
        self._timeout = (statement_timeout or _LONGEST) + _LEEWAY

    async def fetch(self, text: str, arguments: Arguments, most: int | None) -> Sequence[Row]:
        params = {"query": text, **pack_arguments(arguments, self._wired.store), "most": most}
        return unpack_rows(await self._ask("fetch", params), self._wired.store)

    async def execute(self, text: str, arguments: Arguments) -> int:
        return _count(await self._ask("execute", {"query": text, **pack_arguments(arguments, self._wired.store)}))

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        listed = [pack_arguments(arguments, self._wired.store) for arguments in many]
        return _count(await self._ask("execute_many", {"query": text, "many": listed}))

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        store = self._wired.store
        await self._ask("cursor", {"query": text, **pack_arguments(arguments, store), "chunk": chunk})
        done = False
        try:
            while not done:
                rows = unpack_rows(await self._ask("next", {}), store)
                if rows:
                    yield rows
                done = not rows
        finally:
            if not done and not self.broken:
                await self._ask("close_cursor", {})

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None:
        await self._ask("begin", {"readonly": readonly, "isolation": isolation})

    async def commit(self) -> None:
        try:
            await self._ask("commit", {})
        except StoreError as error:
            if error.code not in ("unavailable", "timeout"):
                raise
            self.broken = True
            message = f"{error.message}; whether the transaction was committed is not known"
            raise StoreError(error.store, "unavailable", message) from error.__cause__

    async def rollback(self) -> None:
        await self._ask("rollback", {})

    async def savepoint(self, name: str) -> None:
        await self._ask("savepoint", {"name": name})

    async def release_savepoint(self, name: str) -> None:
        await self._ask("release_savepoint", {"name": name})

    async def rollback_to(self, name: str) -> None:
        await self._ask("rollback_to", {"name": name})

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        before = await self._ask("apply_once", {"key": key, "digest": digest, "script": script})
        return before if isinstance(before, str) else None

    async def reset(self) -> None:
        """Whatever is open of a transaction is rolled back."""
        await self._ask("reset", {})

    async def end(self) -> None:
        await self._wired.ask("close", {}, _CLOSING)

    async def _ask(self, operation: str, params: Mapping[str, Any]) -> Any:
        try:
            return await self._wired.ask(operation, params, self._timeout)
        except StoreError as error:
            if error.code in ("unavailable", "connection"):
                self.broken = True
            raise
        except asyncio.CancelledError:
            self.broken = True  # it runs there until it is told otherwise
            raise


class ProxiedDatabase:
    """Connections to one database of the orchestrator."""

    kind = "orchestrator"

    def __init__(self, store: str, name: str, remote: Remote, statement_timeout: float | None) -> None:
        self._store = store
        self._name = name
        self._remote = remote
        self._timeout = statement_timeout
        self._idle: list[ProxiedSession] = []
        self._used: set[ProxiedSession] = set()

    @property
    def size(self) -> int:
        return len(self._idle) + len(self._used)

    @property
    def idle(self) -> int:
        return len(self._idle)

    async def open(self) -> None:
        return

    async def acquire(self) -> DatabaseSession:
        if self._idle:
            session = self._idle.pop()
        else:
            wired = _Wired(self._store, self._name, DATABASE, self._remote)
            await wired.connect()
            session = ProxiedSession(wired, self._timeout)
        self._used.add(session)
        return session

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, ProxiedSession)
        self._used.discard(session)
        if not session.broken:
            try:
                async with asyncio.timeout(_LEEWAY):
                    await session.reset()
            except (StoreError, TimeoutError):
                session.broken = True
        if session.broken:
            await self._drop(session)
        else:
            self._idle.append(session)

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(self._drop(session) for session in (*idle, *self._used)))

    @staticmethod
    async def _drop(session: ProxiedSession) -> None:
        """What still runs for it there ends with it."""
        try:
            await session.end()
        except StoreError:
            pass  # the connection, or the orchestrator, has gone already


def _count(result: Any) -> int:
    return result if isinstance(result, int) else 0


class ProxiedCache:
    """One cache of the orchestrator."""

    kind = "orchestrator"
    shared = True

    def __init__(self, store: str, name: str, remote: Remote, timeout: float) -> None:
        self._wired = _Wired(store, name, CACHE, remote)
        self._timeout = timeout
        self._connected = False

    async def open(self) -> None:
        self._connected = False
        await self.ping()

    async def close(self) -> None:
        if self._connected:
            self._connected = False
            try:
                await self._wired.ask("close", {}, _CLOSING)
            except StoreError:
                pass  # the orchestrator has gone already

    async def ping(self) -> None:
        await self._ask("ping", {})

    async def get(self, key: str) -> bytes | None:
        return _octets(await self._ask("get", {"key": key}))

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found = await self._ask("get_many", {"keys": list(keys)})
        return [_octets(value) for value in found] if isinstance(found, list) else [None] * len(keys)

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        await self._ask("set", {"key": key, "value": _text(value), "ttl": ttl})

    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None:
        await self._ask("set_many", {"pairs": {key: _text(value) for key, value in pairs.items()}, "ttl": ttl})

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return bool(await self._ask("add", {"key": key, "value": _text(value), "ttl": ttl}))

    async def delete(self, keys: Sequence[str]) -> int:
        return _count(await self._ask("delete", {"keys": list(keys)}))

    async def exists(self, key: str) -> bool:
        return bool(await self._ask("exists", {"key": key}))

    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        return _count(await self._ask("increment", {"key": key, "delta": delta, "ttl": ttl}))

    async def release(self, key: str, value: bytes) -> None:
        await self._ask("release", {"key": key, "value": _text(value)})

    async def clear(self, prefix: str) -> None:
        if not prefix:
            message = "clear would empty a store that other modules use; give a namespace"
            raise StoreError(self._wired.store, "arguments", message)
        await self._ask("clear", {"prefix": prefix})

    def sizes(self) -> Mapping[str, float]:
        return {}

    async def _ask(self, operation: str, params: Mapping[str, Any]) -> Any:
        if not self._connected:
            await self._wired.connect(self._timeout)
            self._connected = True
        try:
            return await self._wired.ask(operation, params, self._timeout)
        except StoreError as error:
            if error.code in ("unavailable", "connection"):  # another process of the orchestrator does not know it
                self._connected = False
            raise


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def _octets(value: Any) -> bytes | None:
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None
