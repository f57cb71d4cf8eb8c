"""What workers may ask of their supervisor, and what answers it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Protocol

from pywatt_host.exceptions import HostError, MessagingError
from pywatt_host.peers.connection import Dispatch, PeerConnection
from pywatt_host.protocol.messages import (
    Announce,
    Deregister,
    Discover,
    Discovered,
    Draining,
    GetHostPath,
    GetSecret,
    HeartbeatAck,
    HostPathAnswer,
    Provider,
    Publish,
    Register,
    RotationAck,
    RouteToModule,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
    Snapshot,
    Subscribe,
    Unsubscribe,
    WorkerFailed,
    WorkerSpans,
)
from pywatt_host.workers.registrations import Registrations
from pywatt_host.workers.routing import WorkerRouting
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.worker_secrets import WorkerSecrets

logger = logging.getLogger("pywatt.workers")

_STORE_TIMEOUT = 60.0  # seconds for an operation on a store of the orchestrator; the worker has limits of its own

# status, headers and body of one of the host's own paths
HostAnswer = tuple[int, Mapping[str, str], str]


class Upstream(Protocol):
    """What the supervisor's channels lead to. Without an orchestrator each of these raises MessagingError."""

    async def discover(self, service_type: str) -> list[Provider]: ...

    async def connect_store(self, service_type: str, config: Any, timeout: float) -> str: ...

    async def operate_store(
        self, connection: str, service_type: str, operation: str, params: Any, timeout: float
    ) -> Any: ...


class WorkerRequests:
    """Makes the dispatch table for the connections of workers. What has to wait runs in tasks."""

    def __init__(
        self,
        *,
        module_id: str,
        routing: WorkerRouting,
        registrations: Registrations,
        upstream: Upstream,
        secrets: Callable[[int], WorkerSecrets],
        snapshot: Callable[[WorkerProcess, list[Any]], None],
        host_path: Callable[[GetHostPath], Awaitable[HostAnswer]],
        healthy: Callable[[], bool],
        drains: Callable[[WorkerProcess], None],
        spans: Callable[[WorkerSpans, WorkerProcess], None] = lambda message, worker: None,
    ) -> None:
        """`secrets` gives those of a generation. `snapshot` takes the metrics that a worker sends by itself.
        `host_path` answers the host's own paths. `healthy` tells whether the host is. `drains` is told of a worker that
        accepts no more, and `spans` takes those that a worker hands over."""
        self._module_id = module_id
        self._routing = routing
        self._registrations = registrations
        self._upstream = upstream
        self._snapshot = snapshot
        self._host_path = host_path
        self._healthy = healthy
        self._stores: dict[str, WorkerProcess] = {}  # connections to stores of the orchestrator
        self._store_types: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        of_worker = _of_worker
        self.dispatch: Dispatch = {
            Announce: of_worker(lambda message, worker: worker.announced(message)),
            HeartbeatAck: of_worker(lambda message, worker: worker.beaten(message)),
            WorkerFailed: of_worker(lambda message, worker: worker.failed(message)),
            Draining: of_worker(lambda message, worker: drains(worker)),
            Snapshot: self._snapshot_or_answer,
            WorkerSpans: of_worker(spans),
            GetSecret: lambda message, peer: secrets(peer.owner.generation).get(message, peer),
            RotationAck: of_worker(lambda message, worker: secrets(worker.generation).acknowledged(message, worker)),
            RouteToModule: routing.routed,
            Publish: of_worker(routing.publish),
            Subscribe: of_worker(lambda message, worker: routing.subscribe(message.topic, worker)),
            Unsubscribe: of_worker(lambda message, worker: routing.unsubscribe(message.topic, worker)),
            Register: lambda message, peer: self._spawn(self._register(message, peer)),
            Deregister: of_worker(registrations.deregister),
            Discover: lambda message, peer: self._spawn(self._discover(message, peer)),
            ServiceRequest: lambda message, peer: self._spawn(self._connect(message, peer)),
            ServiceOperation: lambda message, peer: self._spawn(self._operate(message, peer)),
            GetHostPath: lambda message, peer: self._spawn(self._answer_path(message, peer)),
        }

    def _snapshot_or_answer(self, message: Snapshot, peer: PeerConnection) -> None:
        if message.request_id is None:
            self._snapshot(peer.owner, message.families)
        else:
            peer.session.answered(message)

    async def _register(self, message: Register, peer: PeerConnection) -> None:
        peer.send(await self._registrations.register(message, peer.owner))

    async def _discover(self, message: Discover, peer: PeerConnection) -> None:
        kind = message.service_type
        found = self._registrations.providers(kind, healthy=self._healthy())
        try:
            others = await self._upstream.discover(kind)
        except MessagingError as error:
            if error.code != "unavailable":
                peer.send(Discovered(False, (), error.message, message.request_id))
                return
            others = []
        known = {(each.name, each.address) for each in others}
        providers = [*others, *(each for each in found if (each.name, each.address) not in known)]
        peer.send(Discovered(True, tuple(providers), None, message.request_id))

    # Stores of the orchestrator -------------------------------------------------------------------------------------

    async def _connect(self, message: ServiceRequest, peer: PeerConnection) -> None:
        try:
            connection = await self._upstream.connect_store(message.service_type, message.config, _STORE_TIMEOUT)
        except MessagingError as error:
            peer.send(ServiceResponse(message.id, message.service_type, False, error.message))
            return
        worker: WorkerProcess = peer.owner
        self._stores[connection], self._store_types[connection] = worker, message.service_type
        if worker.state == "ended":
            self.gone(worker)
            return
        peer.send(ServiceResponse(message.id, message.service_type, True, None, connection))

    async def _operate(self, message: ServiceOperation, peer: PeerConnection) -> None:
        if self._stores.get(message.connection_id) is not peer.owner:
            why = "connection: there is no such connection"
            peer.send(ServiceOperationResult(False, None, why, message.request_id))
            return
        try:
            result = await self._upstream.operate_store(
                message.connection_id, message.service_type, message.operation, message.params, _STORE_TIMEOUT
            )
        except MessagingError as error:
            peer.send(ServiceOperationResult(False, None, error.message, message.request_id))
            return
        if message.operation == "close":
            self._forget(message.connection_id)
        peer.send(ServiceOperationResult(True, result, None, message.request_id))

    def _forget(self, connection: str) -> None:
        self._stores.pop(connection, None)
        self._store_types.pop(connection, None)

    async def _close(self, connection: str, service_type: str) -> None:
        try:
            await self._upstream.operate_store(connection, service_type, "close", None, _STORE_TIMEOUT)
        except MessagingError as error:
            logger.debug("a connection to a store of the orchestrator was not closed: %s", error)

    # The host's own paths -------------------------------------------------------------------------------------------

    async def _answer_path(self, message: GetHostPath, peer: PeerConnection) -> None:
        status, headers, body = await self._host_path(message)
        peer.send(HostPathAnswer(status, headers, body, message.request_id))

    # ----------------------------------------------------------------------------------------------------------------

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: close what it had open, so that the orchestrator rolls it back."""
        for connection, owner in tuple(self._stores.items()):
            if owner is worker:
                self._spawn(self._close(connection, self._store_types[connection]))
                self._forget(connection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_logged(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Answer nothing more."""
        for task in tuple(self._tasks):
            task.cancel()


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except HostError as error:
        logger.warning("a request of a worker failed: %s", error)


def _of_worker(call: Callable[[Any, WorkerProcess], object]) -> Callable[[Any, PeerConnection], None]:
    """A handler that calls with the message and the worker that sent it."""

    def handle(message: Any, peer: PeerConnection) -> None:
        call(message, peer.owner)

    return handle
