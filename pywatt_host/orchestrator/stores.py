"""The stores of a workspace: opened once, and used by modules one operation at a time."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol
from uuid import uuid4

from pywatt_host.exceptions import HostError, MessagingError, StoreError
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import (
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
)
from pywatt_host.protocol.session import cut
from pywatt_host.stores.proxy.serving import ServedCache, ServedDatabase
from pywatt_host.stores.proxy.wire import error_text
from pywatt_host.stores.service import Datastores

logger = logging.getLogger("pywatt.wattson")

_MAX_CONNECTIONS = 256  # of one process
_MAX_WAITING = 1024  # operations of one process that are not answered yet
_CLOSE_TIMEOUT = 5.0  # seconds for the open operations of a process that has ended


class Served(Protocol):
    """One connection of a module to a store."""

    async def run(self, operation: str, params: Any) -> Any: ...

    async def close(self) -> None: ...


class _Connection:
    """Runs operations one after the other, in the order in which they arrive."""

    def __init__(self, served: Served, kind: str, replica: Replica) -> None:
        self.served = served
        self.kind = kind
        self.replica = replica
        self._last: asyncio.Task[Any] | None = None
        self._pending: set[asyncio.Task[Any]] = set()

    def run(self, work: Callable[[], Awaitable[Any]]) -> asyncio.Task[Any]:
        before = self._last

        async def after() -> Any:
            if before is not None:
                await asyncio.wait([before])
            return await work()

        task = self._last = asyncio.get_running_loop().create_task(after(), name="operation on a store")
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        return task

    async def close(self) -> None:
        """Cancel the operations that run or wait, and roll back what is open."""
        pending = tuple(self._pending)
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=_CLOSE_TIMEOUT)
        await self.served.close()


class Stores:
    """Serves the connections of modules to stores. As a service: opens and closes the stores themselves."""

    name = "stores"

    def __init__(self, datastores: Datastores | None, mask: Callable[[str], str] = lambda text: text) -> None:
        """`datastores` is None where the workspace declares no stores. `mask` removes secrets from the texts of errors,
        which may come from a server."""
        self._mask = mask
        self._datastores = datastores
        self._connections: dict[str, _Connection] = {}
        # Of peers that are answered in order: the last answer that is on its way.
        self._answers: dict[PeerConnection, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._waiting: dict[Replica, int] = {}

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        if self._datastores is None:
            yield
            return
        async with self._datastores.running(tasks):
            try:
                yield
            finally:
                await asyncio.gather(*(connection.close() for connection in self._connections.values()))
                self._connections.clear()
                for task in tuple(self._running):
                    task.cancel()

    # Requests -------------------------------------------------------------------------------------------------------

    def connect(self, message: ServiceRequest, peer: PeerConnection) -> None:
        """Answer `service_request`."""
        replica: Replica = peer.owner
        try:
            served = self._served(message, replica)
        except StoreError as error:
            peer.send(ServiceResponse(message.id, message.service_type, False, error_text(error)))
            return
        connection = str(uuid4())
        self._connections[connection] = _Connection(served, message.service_type, replica)
        peer.send(ServiceResponse(message.id, message.service_type, True, None, connection))

    def _served(self, message: ServiceRequest, replica: Replica) -> Served:
        kind = message.service_type
        config = message.config if isinstance(message.config, dict) else {}
        name = config.get("store", config.get("name", "default"))
        databases = self._datastores.databases if self._datastores is not None else {}
        caches = self._datastores.caches if self._datastores is not None else {}
        declared = list(databases if kind == "Database" else caches if kind == "Cache" else ())
        if not isinstance(name, str) or name not in declared:
            there = f"declared: {', '.join(declared)}" if declared else "the workspace declares none"
            message_text = f"there is no store {cut(str(name), 60)!r} of the type {cut(kind, 60)} ({there})"
            raise StoreError(f"{kind.lower()}s", "arguments", message_text)
        if sum(each.replica is replica for each in self._connections.values()) >= _MAX_CONNECTIONS:
            raise StoreError(name, "exhausted", f"a process has {_MAX_CONNECTIONS} connections at most")
        if kind == "Database":
            return ServedDatabase(databases[name])
        cache = caches[name]
        return ServedCache(f"caches.{name}", lambda: cache.backend)

    def operate(self, message: ServiceOperation, peer: PeerConnection) -> None:
        """Answer `service_operation`; operations without a request id in the order in which they arrive."""
        replica: Replica = peer.owner
        connection = self._connections.get(message.connection_id)
        waiting = self._waiting.get(replica, 0)
        if connection is None or connection.replica is not replica or connection.kind != message.service_type:
            self._refuse(message, peer, "connection: there is no such connection")
        elif waiting >= _MAX_WAITING:
            self._refuse(message, peer, f"exhausted: {_MAX_WAITING} operations wait already")
        elif message.operation == "close":
            del self._connections[message.connection_id]
            self._answer(message, peer, _task(self._closed(connection, message)))
        else:
            self._waiting[replica] = waiting + 1
            task = connection.run(lambda: self._result(connection, message))
            task.add_done_callback(lambda done: self._ended(replica))
            self._answer(message, peer, task)

    def _ended(self, replica: Replica) -> None:
        if self._waiting.get(replica, 0) > 0:
            self._waiting[replica] -= 1

    def _refuse(self, message: ServiceOperation, peer: PeerConnection, why: str) -> None:
        async def refused() -> ServiceOperationResult:
            return ServiceOperationResult(False, None, why, message.request_id)

        self._answer(message, peer, _task(refused()))

    async def _result(self, connection: _Connection, message: ServiceOperation) -> ServiceOperationResult:
        params = message.params if isinstance(message.params, dict) else {}
        try:
            result = await connection.served.run(message.operation, params)
            return ServiceOperationResult(True, result, None, message.request_id)
        except StoreError as error:
            return ServiceOperationResult(False, None, self._mask(error_text(error)), message.request_id)

    async def _closed(self, connection: _Connection, message: ServiceOperation) -> ServiceOperationResult:
        await connection.close()
        return ServiceOperationResult(True, None, None, message.request_id)

    def _answer(self, message: ServiceOperation, peer: PeerConnection, result: asyncio.Task[Any]) -> None:
        before = self._answers.get(peer) if message.request_id is None else None

        async def send() -> None:
            await asyncio.wait([result] if before is None else [result, before])
            fault = None if result.cancelled() else result.exception()
            if fault is not None:
                logger.error("%s: an operation on a store failed", peer.peer, exc_info=fault)
            if fault is not None or result.cancelled():
                why = "unavailable: the operation failed" if fault else "unavailable: the connection was closed"
                _send(peer, ServiceOperationResult(False, None, why, message.request_id))
            else:
                _send(peer, result.result())

        task = _task(send())
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        if message.request_id is None:
            self._answers[peer] = task
            task.add_done_callback(lambda done: self._answered(peer, done))

    def _answered(self, peer: PeerConnection, task: asyncio.Task[Any]) -> None:
        if self._answers.get(peer) is task:
            del self._answers[peer]

    def gone(self, replica: Replica) -> None:
        """Roll back and close what a process that has ended had open."""
        self._waiting.pop(replica, None)
        for name, connection in tuple(self._connections.items()):
            if connection.replica is replica:
                del self._connections[name]
                task = _task(connection.close())
                self._running.add(task)
                task.add_done_callback(self._running.discard)


def _task(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(work)


def _send(peer: PeerConnection, answer: ServiceOperationResult) -> None:
    """Send an answer, or an error where the result is larger than a message may be."""
    try:
        peer.session.send(answer)
    except MessagingError:
        why = "arguments: the result is larger than a message may be (limits.frame); read it with iterate"
        peer.send(ServiceOperationResult(False, None, why, answer.request_id))
    except HostError as error:
        logger.debug("%s: the result of an operation was not sent: %s", peer.peer, error)
