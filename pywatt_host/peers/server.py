"""Peers that connect to this module: admitted by identify and token, then served like every other sender."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from pywatt_host.channels.wire import Trace
from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.observability.running_clock import running_timeout
from pywatt_host.peers.acceptor import Acceptor, PeerListener
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import (
    Event,
    Heartbeat,
    HeartbeatAck,
    Identify,
    Publish,
    Received,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    Subscribe,
    Unknown,
    Unsubscribe,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import ANSWERS, cut

logger = logging.getLogger("pywatt.channels")

PEER_EXTENSIONS = frozenset({"request_id", "error", "inline_payload", "health", "events"})
_MAX_PEERS = 1024
_MAX_TOPICS = 1000  # of one peer
_MAX_TOPIC_LENGTH = 200  # characters


class PeerServer:
    """Accepts peers on Unix sockets and TCP, answers them, and is a transport of messages to them."""

    name = "peers"

    def __init__(
        self,
        module_id: str,
        *,
        frame_limit: int,
        handshake_timeout: float,
        message: Callable[[RouteToModule, PeerConnection], None],
        health: Callable[[], Mapping[str, Any]],
        event: Callable[[Publish, PeerConnection], None] = lambda message, connection: None,
        trace: Trace | None = None,
    ) -> None:
        """`frame_limit` is in bytes, `handshake_timeout` in seconds. `message` takes the messages that peers send to
        this module, `event` the events that they publish."""
        self.listeners: list[PeerListener] = []
        self._module_id = module_id
        self._message = message
        self._health = health
        self._next_peer = 0
        self._topics: dict[PeerConnection, set[str]] = {}  # that each peer has subscribed to
        self._pending: dict[tuple[PeerConnection, str], asyncio.Future[RouteToModule]] = {}
        self._acceptor = Acceptor(
            name=module_id,
            extensions=PEER_EXTENSIONS,
            dispatch={
                RouteToModule: self._routed,
                Publish: event,
                Subscribe: self._subscribe,
                Unsubscribe: self._unsubscribe,
                Heartbeat: self._heartbeat,
            },
            unhandled=_unsupported,
            candidates=_tokens,
            admitted=self._admitted,
            left=self._left,
            frame_limit=frame_limit,
            timeout=handshake_timeout,
            timeout_text=f"no identify within {handshake_timeout:g}s (channels.limits.handshake)",
            token_text="identify has no token, or another one (channels.tcp.token)",
            max_peers=_MAX_PEERS,
            ignored_early=frozenset((Unknown, *ANSWERS)),
            trace=trace,
        )

    @property
    def peers(self) -> int:
        """The number of peers that are connected and admitted."""
        return len(self._acceptor.peers)

    @property
    def refused(self) -> int:
        """The number of connections that were not admitted."""
        return self._acceptor.refused

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            async with self._acceptor.accepting(self.listeners):
                for each in self.listeners:
                    address = each.listener.address.removeprefix("http://")
                    logger.info("peers may connect to %s %s", each.channel, address)
                yield
        finally:
            self.close()

    def close(self) -> None:
        """Close the listeners, also those that never served."""
        for each in self.listeners:
            each.listener.close()

    def _admitted(self, connection: PeerConnection) -> None:
        self._topics[connection] = set()
        connection.vouched_by = "certificate" if connection.module_id in _certified(connection) else ""
        connection.rename(f"{cut(connection.module_id, 60)} on {connection.channel}")
        logger.info("%s is connected", connection.peer)

    def _left(self, connection: PeerConnection, why: HostError | None) -> None:
        del self._topics[connection]
        for key in [key for key in self._pending if key[0] is connection]:
            answer = self._pending.pop(key)
            if not answer.done():
                answer.set_exception(ChannelError(connection.channel, "", "the other side closed it"))
                answer.exception()  # retrieved, since the request may have been cancelled
        logger.info("%s has left%s", connection.peer, f": {why}" if why is not None else "")

    # To peers -------------------------------------------------------------------------------------------------------

    def routes(self, target: str, channel: str | None) -> Sequence[_Route]:
        """The routes to a module that has connected to this one. See Transport."""
        found = [
            _Route(self, connection)
            for connection in self._acceptor.peers
            if connection.module_id == target and connection.open and channel in (None, connection.channel)
        ]
        if len(found) > 1:  # processes of one module take turns
            self._next_peer += 1
            first = self._next_peer % len(found)
            found = found[first:] + found[:first]
        return found

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """Send an event to the peers that have subscribed. See Transport."""
        sent = None
        for connection, topics in tuple(self._topics.items()):
            if topic in topics and channel in (None, connection.channel):
                connection.send(Event(topic, self._module_id, event))
                sent = True
        return sent

    async def ask(self, connection: PeerConnection, request_id: str, payload: Payload, timeout: float) -> Payload:
        """Send a message to a peer and return its answer. `timeout` is in seconds. Raises MessagingError."""
        target, key = connection.module_id, (connection, request_id)
        answer: asyncio.Future[RouteToModule] = asyncio.get_running_loop().create_future()
        self._pending[key] = answer
        try:
            connection.session.send(RoutedMessage(self._module_id, request_id, payload))
            async with running_timeout(timeout):
                return (await answer).payload
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s", target) from None
        except ChannelError as error:
            code = "lost" if answer.done() else "unavailable"
            raise MessagingError(code, f"the channel broke: {error.message}", target) from error
        finally:
            self._pending.pop(key, None)

    # From peers -----------------------------------------------------------------------------------------------------

    def _routed(self, message: RouteToModule, connection: PeerConnection) -> None:
        answer = self._pending.get((connection, message.request_id))
        if answer is not None:
            if not answer.done():
                answer.set_result(message)
            return
        if message.target_module_id == self._module_id:
            self._message(message, connection)
            return
        text = f"{self._module_id} passes nothing on to {cut(message.target_module_id, 60)}"
        content = {"type": "error", "code": "unknown_target", "message": text}
        connection.send(RoutedResponse(self._module_id, message.request_id, Payload.of(content)))

    def _subscribe(self, message: Subscribe, connection: PeerConnection) -> None:
        topics = self._topics[connection]
        if len(topics) < _MAX_TOPICS and len(message.topic) <= _MAX_TOPIC_LENGTH:
            topics.add(message.topic)
        else:
            connection.refuse(message, "refused", "there are too many topics, or the topic is too long")

    def _unsubscribe(self, message: Unsubscribe, connection: PeerConnection) -> None:
        self._topics[connection].discard(message.topic)

    def _heartbeat(self, message: Heartbeat, connection: PeerConnection) -> None:
        connection.send(HeartbeatAck(self._health() if "health" in connection.session.extensions else None))


@dataclass(frozen=True, slots=True)
class _Route:
    """The route to a peer that has connected to this module."""

    server: PeerServer
    connection: PeerConnection
    keeps: ClassVar[bool] = False

    @property
    def channel(self) -> str:
        return self.connection.channel

    @property
    def ready(self) -> bool:
        return self.connection.open

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        return await self.server.ask(self.connection, request_id, payload, timeout)

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "no message is kept on this channel", target)

    async def available(self, timeout: float, target: str) -> None:
        return

    async def drained(self) -> None:
        await self.connection.session.drained()


def _tokens(message: Identify, listener: PeerListener) -> list[tuple[str, None]] | None:
    """The tokens that are accepted on a listener; None where no token is needed."""
    return [(token, None) for token in listener.tokens()] or None


def _unsupported(message: Received, connection: PeerConnection) -> None:
    """Ignore an operation that only an orchestrator answers; tell peers that know errors."""
    connection.ignore(message)
    if message.__class__ is not Unknown:
        connection.refuse(message, "unsupported", "a module does not answer this")


def _certified(connection: PeerConnection) -> frozenset[str]:
    """The names in the peer's verified client certificate: of the subject, and DNS and URI names."""
    certificate = connection.wire.transport.get_extra_info("peercert") or {}
    names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    names |= {value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")}
    return frozenset(names)
