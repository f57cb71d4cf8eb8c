"""The client of an orchestrator or of another module: one connection for each channel that leads there, the best one
preferred.

Standard input and output come with the handshake. `reconnecting` keeps the Unix sockets and TCP connections up.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

from pywatt_host.channels.stdio import Handshake, open_stdio
from pywatt_host.channels.wire import Trace
from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.observability.context import TraceContext
from pywatt_host.peers.connection import Dispatch, MessageHandler, PeerConnection
from pywatt_host.peers.heartbeats import HeartbeatWatch
from pywatt_host.peers.reconnecting import MODULE_EXTENSIONS, Connector, Reconnector
from pywatt_host.protocol.codec import Lines, line
from pywatt_host.protocol.messages import (
    Announce,
    AnnouncedEndpoint,
    Discover,
    Draining,
    Event,
    GetSecret,
    GetSnapshot,
    Heartbeat,
    HeartbeatAck,
    HttpRequest,
    HttpResponse,
    Publish,
    Register,
    Rotated,
    RotationAck,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    Shutdown,
    Snapshot,
    Subscribe,
    WorkerAccept,
    WorkerEvent,
    WorkerMessage,
    WorkerRetire,
    WorkerSpans,
    WorkerTls,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import Request, agreed

_PREFERENCE = ("ipc", "tcp", "stdio")
_CONGESTED = 4 * 1024**2  # bytes that wait for a supervisor, from which on spans are dropped
_REPEATABLE = (GetSecret, Discover, Register)  # requests that may be sent again on another channel

HttpHandler: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]
RotatedHandler: TypeAlias = Callable[[str, Sequence[str]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class WorkerHandlers:
    """What answers the supervisor of a worker beside what answers any orchestrator: `accept` begins to accept
    connections, `retire` is told why the worker drains and ends, `snapshot` gives its metrics, `renew` takes a renewed
    certificate. `number` is the worker's in logs. The span of its start hangs below `started_by`."""

    number: int
    accept: Callable[[], None]
    retire: Callable[[str], None]
    snapshot: Callable[[], Awaitable[list[Any]]]
    renew: Callable[[WorkerTls], None]
    started_by: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class PassedOn:
    """What takes the messages and events that a supervisor passes on to its worker."""

    message: Callable[[WorkerMessage, PeerConnection], None]
    event: Callable[[WorkerEvent, PeerConnection], None]


@dataclass(frozen=True, slots=True)
class PeerHandlers:
    """What answers the other side. An operation without a handler is ignored: a peer is given fewer than an
    orchestrator. `rotated` returns why the new values were not taken, or an empty text; `lost` is told why the
    orchestrator is gone."""

    health: Callable[[], Mapping[str, Any]] = dict
    message: Callable[[RoutedMessage, PeerConnection], None] | None = None
    event: Callable[[Event, PeerConnection], None] | None = None
    http: HttpHandler | None = None
    rotated: RotatedHandler | None = None
    shutdown: Callable[[str], None] | None = None
    worker: WorkerHandlers | None = None
    passed_on: PassedOn | None = None
    lost: Callable[[str], None] = lambda why: None


NO_HANDLERS = PeerHandlers()


class PeerClient:
    """All channels to an orchestrator, as one service and as a transport of messages. Without any channel, every
    request fails at once."""

    name = "channels"

    def __init__(
        self,
        module_id: str,
        connectors: Sequence[Connector],
        *,
        handshake: Handshake | None,
        frame_limit: int,
        handshake_timeout: float,
        heartbeats_missed: int,
        trace: Trace | None = None,
        peer: str = "",
        handlers: PeerHandlers = NO_HANDLERS,
        topics: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`frame_limit` is in bytes, `handshake_timeout` in seconds. `peer` is the name of the module that the channels
        lead to; empty, they lead to an orchestrator. The start does not wait for the connection to a module.
        `handlers` answer the other side. `topics` gives the topics that each new connection subscribes to."""
        self.handlers = handlers
        self._handshake = handshake
        self._frame_limit = frame_limit
        self._trace = trace
        self._peer = peer
        self._topics = topics
        self._route = PeerRoute(self, None)
        self._stdio: PeerConnection | None = None
        self._best: PeerConnection | None = None
        self._available = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_connected: list[Callable[[PeerConnection], Awaitable[None]]] = []
        self._announce: Announce | None = None
        self._heartbeats = HeartbeatWatch(heartbeats_missed, self._is_lost)
        self._extensions = agreed(frozenset(handshake.init.extensions if handshake else ()), MODULE_EXTENSIONS)
        self.reconnector = Reconnector(
            module_id=module_id,
            connectors=connectors,
            peer=peer,
            dispatch=self._dispatch,
            connected=self._connected,
            lost=self._choose,
            spawn=self._spawn,
            frame_limit=frame_limit,
            timeout=handshake_timeout,
            extensions=self._extensions,
            offered=MODULE_EXTENSIONS if handshake is None or self._extensions else frozenset(),
            trace=trace,
        )

    @property
    def connectors(self) -> Sequence[Connector]:
        """The channels that this module connects by itself."""
        return self.reconnector.connectors

    @property
    def configured(self) -> bool:
        """Whether any channel leads to the other side, connected or not."""
        return self._handshake is not None or bool(self.connectors)

    @property
    def _supervised(self) -> bool:
        """Whether this is a worker, and the other side is its supervisor."""
        return self._handshake is not None and self._handshake.supervised

    @property
    def address(self) -> str | None:
        """The address of the orchestrator's API, from its init message; None for a worker, which has a supervisor."""
        if self._handshake is None or self._handshake.supervised:
            return None
        return self._handshake.init.orchestrator_api

    @property
    def on_stdio(self) -> bool:
        """Whether standard input and output lead to an orchestrator that still listens."""
        return self._stdio is not None and self._stdio.open

    @property
    def best_channel(self) -> str:
        """The channel in use, or the one that would be preferred."""
        if self._best is not None:
            return self._best.channel
        return min((each.channel for each in self.connectors), key=_PREFERENCE.index, default="stdio")

    def connections(self) -> list[PeerConnection]:
        """The open connections, the preferred one first."""
        found = [connector.connection for connector in self.connectors]
        return sorted(
            (each for each in (*found, self._stdio) if each is not None and each.open),
            key=lambda each: _PREFERENCE.index(each.channel),
        )

    def connection_over(self, channel: str) -> PeerConnection | None:
        """The open connection of one channel."""
        return next((each for each in self.connections() if each.channel == channel), None)

    def on_connected(self, call: Callable[[PeerConnection], Awaitable[None]]) -> None:
        """Call this for each new connection, for example to register services again."""
        self._on_connected.append(call)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        silence: asyncio.Task[None] | None = None
        try:
            if self._handshake is not None:
                await self._open_stdio(self._handshake)
            if self._handshake is not None and not self._handshake.supervised:  # a supervisor that ends is noticed
                silence = tasks.create_task(self._heartbeats.watch(), name="heartbeats")
            async with self.connecting(tasks, with_secrets=False):
                yield
        finally:
            self.reconnector.stopping = True
            for task in (*([silence] if silence is not None else []), *self._tasks):
                task.cancel()
            for connection in self.connections():
                connection.wire.close()
            if self._stdio is not None:
                self._stdio.wire.close()  # also where one of its two pipes has ended already

    def connecting(self, tasks: TaskGroup, *, with_secrets: bool) -> AbstractAsyncContextManager[None]:
        """Keep the channels connected whose tokens need no secrets, or, `with_secrets`, those whose tokens do. Raises
        ChannelError where a required channel cannot connect within the handshake timeout."""
        return self.reconnector.connecting(tasks, with_secrets=with_secrets)

    async def _open_stdio(self, handshake: Handshake) -> None:
        peer = "the supervisor" if handshake.supervised else "the orchestrator"
        connection = PeerConnection(
            "stdio", peer, Lines(self._frame_limit), line, self._dispatch(), self._stdio_ended,
            limit=self._frame_limit, extensions=self._extensions, trace=self._trace,
        )  # fmt: skip
        self._stdio = connection
        await open_stdio(handshake, connection.wire)
        self._choose()
        self._subscribe(connection, self._topics())

    def _stdio_ended(self, connection: PeerConnection, why: HostError | None) -> None:
        self._choose()
        self._is_lost(str(why) if why is not None else "standard input ended without a shutdown")

    def _is_lost(self, why: str) -> None:
        if not self.reconnector.stopping:
            self.handlers.lost(why)

    async def _connected(self, connection: PeerConnection) -> None:
        self._choose()
        self._subscribe(connection, self._topics())
        if self._announce is not None and self._stdio is None:
            connection.send(self._announce)
        for call in self._on_connected:
            await call(connection)

    def _choose(self) -> None:
        self._best = next(iter(self.connections()), None)
        if self._best is not None:
            self._available.set()
        else:
            self._available.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Requests and messages ------------------------------------------------------------------------------------------

    async def request(self, message: Request, timeout: float, target: str = "", channel: str | None = None) -> Any:
        """Send a request over the best channel, or over `channel`, and return the answer. Waits for a connection while
        there is none. `timeout` is in seconds. Raises MessagingError: `unavailable`, `timeout`, `lost`, or the code of
        an error that was answered."""
        deadline = time.monotonic() + timeout
        while True:
            connection = self._best if channel is None else self.connection_over(channel)
            if connection is None and channel is not None:
                raise MessagingError("unavailable", f"channel {channel} is not connected", target)
            if connection is None or not connection.open:  # a closing connection has not reported its end yet
                self._choose()
                connection = await self._any_connection(deadline, target)
            try:
                return await connection.session.request(message, max(0.001, deadline - time.monotonic()))
            except ChannelError as error:
                self._choose()
                if not isinstance(message, _REPEATABLE):
                    raise MessagingError(
                        "lost", f"the channel broke before the answer: {error.message}", target
                    ) from error
            except MessagingError as error:
                error.target = target or error.target
                raise

    async def _any_connection(self, deadline: float, target: str) -> PeerConnection:
        if not self.configured:
            raise MessagingError("unavailable", "there is no orchestrator (run it under one, or see channels)", target)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                while self._best is None:
                    await self._available.wait()
        except TimeoutError:
            text = f"no channel to {self._peer or 'the orchestrator'} is connected"
            raise MessagingError("unavailable", text, target) from None
        return self._best

    async def available(self, timeout: float, target: str = "") -> None:
        """Return once a channel is connected. Raises MessagingError `unavailable` after `timeout` seconds."""
        await self._any_connection(time.monotonic() + timeout, target)

    async def drained(self) -> None:
        """Return once the best channel takes more."""
        if self._best is not None:
            await self._best.session.drained()

    def routes(self, target: str, channel: str | None) -> Sequence[PeerRoute]:
        """See Transport. The orchestrator may know every module, so there is a route to each."""
        if channel is None:
            return (self._route,) if self.configured else ()
        if self._supervised:
            return (PeerRoute(self, None, channel),) if channel in _PREFERENCE else ()
        known = {connector.channel for connector in self.connectors}
        known |= {"stdio"} if self._handshake is not None else set()
        return (PeerRoute(self, channel),) if channel in known else ()

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """See Transport. The event goes to every connection whose other side passes events on or takes them."""
        if not self.configured or (channel is not None and channel not in _PREFERENCE):
            return None
        if self._supervised:
            return self._stdio is not None and self._stdio.send(Publish(topic, event, channel))
        open = [each for each in self.connections() if channel is None or each.channel == channel]
        able = [each for each in open if "events" in each.session.extensions]
        # All channels of an orchestrator lead to the same one; without one, each leads to a peer of its own.
        for connection in able[:1] if self._handshake is not None or self._peer else able:
            connection.send(Publish(topic, event))
        return True if able else None if self._peer else False

    def subscribe(self, topic: str) -> None:
        """Subscribe to one more topic on the present connections."""
        for connection in self.connections():
            self._subscribe(connection, (topic,))

    def _subscribe(self, connection: PeerConnection, topics: Sequence[str]) -> None:
        if "events" in connection.session.extensions:
            for topic in topics:
                connection.send(Subscribe(topic))

    def announce(self, listen: str, endpoints: Sequence[AnnouncedEndpoint]) -> None:
        """Tell the orchestrator where the module serves which endpoints; without stdio, on each new channel again."""
        self._announce = Announce(listen, tuple(endpoints), tuple(sorted(self._extensions)))
        for connection in self.connections() if self._stdio is None else (self._stdio,):
            connection.send(self._announce)

    def draining(self) -> None:
        """Tell the other side that the module takes nothing new, and expect the end of the connections."""
        self.reconnector.stopping = True
        for connection in self.connections():
            if "drain" in connection.session.extensions:
                connection.send(Draining())

    def hand_spans(self, encoded: bytes, spans: int, dropped: int) -> bool:
        """Give spans to the supervisor of this worker, see WorkerSpans. False where it does not read what it is sent,
        or has gone: then they are not kept."""
        connection = self._stdio
        if connection is None or not connection.open or connection.wire.buffered > _CONGESTED:
            return False
        return connection.send(WorkerSpans(encoded, spans, dropped))

    # What the other side asks ---------------------------------------------------------------------------------------

    def _dispatch(self) -> Dispatch:
        handlers = self.handlers
        table: dict[type[Any], MessageHandler] = {Heartbeat: self._heartbeat}
        if handlers.message is not None:
            table[RoutedMessage] = handlers.message
        if handlers.event is not None:
            table[Event] = handlers.event
        if (http := handlers.http) is not None:
            table[HttpRequest] = lambda message, connection: self._spawn(_answer_http(http, message, connection))
        if (rotated := handlers.rotated) is not None:
            table[Rotated] = lambda message, connection: self._spawn(self._acknowledge(rotated, message, connection))
        if (shutdown := handlers.shutdown) is not None:
            table[Shutdown] = lambda message, connection: self._shutdown(shutdown)
        if (worker := handlers.worker) is not None:
            table[WorkerAccept] = lambda message, connection: worker.accept()
            table[WorkerRetire] = lambda message, connection: self._retire(worker.retire, message.why)
            table[WorkerTls] = lambda message, connection: worker.renew(message)
            table[GetSnapshot] = lambda message, connection: self._spawn(_send_snapshot(worker, message, connection))
        if (passed_on := handlers.passed_on) is not None:
            table[WorkerMessage], table[WorkerEvent] = passed_on.message, passed_on.event
        return table

    def _heartbeat(self, message: Heartbeat, connection: PeerConnection) -> None:
        self._heartbeats.beat()
        connection.send(HeartbeatAck(self.handlers.health() if "health" in connection.session.extensions else None))

    async def _acknowledge(self, rotated: RotatedHandler, message: Rotated, connection: PeerConnection) -> None:
        """Answer over the same connection, or over another one where it has ended meanwhile."""
        why = await rotated(message.rotation_id, message.keys)
        answer = RotationAck(message.rotation_id, "error" if why else "success", why or None)
        for each in (connection, *self.connections()):
            if each.open and each.send(answer):
                return

    def _shutdown(self, shutdown: Callable[[str], None]) -> None:
        self.reconnector.stopping = True
        supervised = self._handshake is not None and self._handshake.supervised
        shutdown("the supervisor's shutdown" if supervised else "the orchestrator's shutdown")

    def _retire(self, retire: Callable[[str], None], why: str) -> None:
        self.reconnector.stopping = True
        retire(why)


async def _answer_http(http: HttpHandler, message: HttpRequest, connection: PeerConnection) -> None:
    connection.send(await http(message))


async def _send_snapshot(worker: WorkerHandlers, message: GetSnapshot, connection: PeerConnection) -> None:
    connection.send(Snapshot(await worker.snapshot(), message.request_id))


class PeerRoute:
    """The route over a client: over its best channel, or over one of them."""

    keeps = False

    def __init__(self, client: PeerClient, channel: str | None, of_supervisor: str | None = None) -> None:
        """`of_supervisor` is the channel over which the supervisor of this worker is to pass messages on."""
        self._client = client
        self._only = channel
        self._of_supervisor = of_supervisor

    @property
    def channel(self) -> str:
        return self._of_supervisor or self._only or self._client.best_channel

    @property
    def ready(self) -> bool:
        if self._only is not None:
            return self._client.connection_over(self._only) is not None
        return bool(self._client.connections())

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        message = RouteToModule(target, "", request_id, payload, self._of_supervisor)
        answer: RoutedResponse = await self._client.request(message, timeout, target, self._only)
        return answer.payload

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "no message is kept on this channel", target)

    async def available(self, timeout: float, target: str) -> None:
        await self._client.available(timeout, target)

    async def drained(self) -> None:
        await self._client.drained()
