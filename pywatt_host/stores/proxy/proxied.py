"""Stores of the orchestrator, on the side of the module. Each operation is one request and one response."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from pywatt_host.exceptions import MessagingError, StoreError
from pywatt_host.stores.databases.backend import DatabaseSession, Isolation, commit_unknown
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments
from pywatt_host.stores.proxy.remote import Remote
from pywatt_host.stores.proxy.wire import error_of, pack_arguments, unpack_rows

DATABASE, CACHE = "Database", "Cache"

_CONNECT_TIMEOUT = 5.0  # seconds
_TRANSFER_ALLOWANCE = 2.0  # seconds that a response may take on top of the operation itself
_UNLIMITED_TIMEOUT = 3600.0  # seconds for a statement that has no time limit
_CLOSE_TIMEOUT = 1.0  # seconds to tell the orchestrator that a connection is no longer needed


class _RemoteStore:
    """One connection to one store of the orchestrator."""

    def __init__(self, store: str, name: str, kind: str, remote: Remote) -> None:
        self.store = store
        self._name = name
        self._kind = kind
        self._remote = remote
        self._connection = ""

    async def connect(self, timeout: float = _CONNECT_TIMEOUT) -> None:
        """Open the connection within `timeout` seconds. Raises StoreError."""
        try:
            self._connection = await self._remote.connect(self._kind, {"store": self._name}, timeout)
        except MessagingError as error:
            raise self._translated(error) from error

    async def run(self, operation: str, params: Mapping[str, Any], timeout: float) -> Any:
        """Run an operation and return its result, within `timeout` seconds. Raises StoreError."""
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
    """One connection to the orchestrator's database. The orchestrator takes a connection from its pool only for
    transactions and loops over rows."""

    def __init__(self, remote_store: _RemoteStore, statement_timeout: float | None) -> None:
        self.broken = False
        self._remote_store = remote_store
        self._timeout = (statement_timeout or _UNLIMITED_TIMEOUT) + _TRANSFER_ALLOWANCE

    async def fetch(self, text: str, arguments: Arguments, limit: int | None) -> Sequence[Row]:
        store = self._remote_store.store
        params = {"query": text, **pack_arguments(arguments, store), "most": limit}
        return unpack_rows(await self._ask("fetch", params), store)

    async def execute(self, text: str, arguments: Arguments) -> int:
        params = {"query": text, **pack_arguments(arguments, self._remote_store.store)}
        return _count(await self._ask("execute", params))

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        listed = [pack_arguments(arguments, self._remote_store.store) for arguments in many]
        return _count(await self._ask("execute_many", {"query": text, "many": listed}))

    async def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        store = self._remote_store.store
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
            raise commit_unknown(error, "unavailable") from error.__cause__

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
        """Roll back a transaction that is still open."""
        await self._ask("reset", {})

    async def close(self) -> None:
        await self._remote_store.run("close", {}, _CLOSE_TIMEOUT)

    async def _ask(self, operation: str, params: Mapping[str, Any]) -> Any:
        try:
            return await self._remote_store.run(operation, params, self._timeout)
        except StoreError as error:
            if error.code in ("unavailable", "connection"):
                self.broken = True
            raise
        except asyncio.CancelledError:
            self.broken = True  # the orchestrator runs the operation until the connection is closed
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
            remote_store = _RemoteStore(self._store, self._name, DATABASE, self._remote)
            await remote_store.connect()
            session = ProxiedSession(remote_store, self._timeout)
        self._used.add(session)
        return session

    async def release(self, session: DatabaseSession) -> None:
        assert isinstance(session, ProxiedSession)
        self._used.discard(session)
        if not session.broken:
            try:
                async with asyncio.timeout(_TRANSFER_ALLOWANCE):
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
        """Close the session. The orchestrator then stops what still runs for it."""
        try:
            await session.close()
        except StoreError:
            pass  # the connection or the orchestrator is gone already


def _count(result: Any) -> int:
    return result if isinstance(result, int) else 0


class ProxiedCache:
    """One cache of the orchestrator."""

    kind = "orchestrator"
    shared = True

    def __init__(self, store: str, name: str, remote: Remote, timeout: float) -> None:
        self._remote_store = _RemoteStore(store, name, CACHE, remote)
        self._timeout = timeout
        self._connected = False

    async def open(self) -> None:
        self._connected = False
        await self.ping()

    async def close(self) -> None:
        if self._connected:
            self._connected = False
            try:
                await self._remote_store.run("close", {}, _CLOSE_TIMEOUT)
            except StoreError:
                pass  # the orchestrator is gone already

    async def ping(self) -> None:
        await self._ask("ping", {})

    async def get(self, key: str) -> bytes | None:
        return _bytes_or_none(await self._ask("get", {"key": key}))

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found = await self._ask("get_many", {"keys": list(keys)})
        return [_bytes_or_none(value) for value in found] if isinstance(found, list) else [None] * len(keys)

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
            message = "clear would delete the keys of other modules too; give the cache a namespace"
            raise StoreError(self._remote_store.store, "arguments", message)
        await self._ask("clear", {"prefix": prefix})

    def sizes(self) -> Mapping[str, float]:
        return {}

    async def _ask(self, operation: str, params: Mapping[str, Any]) -> Any:
        if not self._connected:
            await self._remote_store.connect(self._timeout)
            self._connected = True
        try:
            return await self._remote_store.run(operation, params, self._timeout)
        except StoreError as error:
            if error.code in ("unavailable", "connection"):  # a new process of the orchestrator has no such connection
                self._connected = False
            raise


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def _bytes_or_none(value: Any) -> bytes | None:
    try:
        return b64decode(value, validate=True) if isinstance(value, str) else None
    except ValueError:
        return None
