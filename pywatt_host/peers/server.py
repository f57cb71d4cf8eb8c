"""Peers that connect to this module: let in by identify and token, then heard like anybody else."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.sockets import no_delay, serve
from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.exceptions import ChannelError, HostError, MessagingError
from pywatt_host.net.listeners import Listener
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.codec import Frames, frame
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
from pywatt_host.protocol.session import agreed, cut, refusal

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("pywatt.channels")

PEER_EXTENSIONS = frozenset({"request_id", "error", "inline_payload", "health", "events"})
_MOST_UNKNOWN = 64  # connections that have not identified themselves
_MOST_PEERS = 1024
_LONGEST_ID = 128
_MOST_TOPICS = 1000  # of one peer
_LONGEST_TOPIC = 200  # characters


@dataclass(frozen=True, slots=True)
class PeerListener:
    """What is listened on, and who is let in: `tokens` are those that are taken now, none where none is asked for."""

    channel: str
    listener: Listener
    tokens: Callable[[], tuple[str, ...]]
    tls: SSLContext | None = None


class PeerServer:
    """Takes peers on Unix sockets and TCP."""

    name = "peers"

    def __init__(
        self,
        module_id: str,
        *,
        frame_limit: int,
        handshake_timeout: float,
        message: Callable[[RouteToModule, PeerConnection], None],
        health: Callable[[], Mapping[str, Any]],
        event: Callable[[Publish, PeerConnection], None] = lambda message, conversation: None,
        trace: Trace | None = None,
    ) -> None:
        self.doors: list[PeerListener] = []
        self.refused = 0
        self._module_id = module_id
        self._frame_limit = frame_limit
        self._timeout = handshake_timeout
        self._message = message
        self._health = health
        self._event = event
        self._trace = trace
        # Shared by all who connect to a channel: one who comes a thousand times is logged as one who stays.
        self._refusals = {channel: BadRecords(f"a peer on {channel}") for channel in ("ipc", "tcp")}
        self._unknown: dict[PeerConnection, asyncio.TimerHandle] = {}
        self._turn = 0
        self._peers: dict[PeerConnection, set[str]] = {}  # with the topics that they subscribed to
        self._asked: dict[tuple[PeerConnection, str], asyncio.Future[RouteToModule]] = {}

    @property
    def peers(self) -> int:
        """How many are connected and let in."""
        return len(self._peers)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        servers: list[asyncio.AbstractServer] = []
        try:
            for door in self.doors:
                own = door.listener.sock.dup()
                servers.append(await self._serve(own, door))
                logger.info("peers may connect to %s %s", door.channel, door.listener.address.removeprefix("http://"))
            yield
        finally:
            for server in servers:
                server.close()
            self.close()
            for conversation in (*self._unknown, *self._peers):
                conversation.wire.end(None)  # also one whose TLS handshake is not over yet

    async def _serve(self, sock: socket.socket, door: PeerListener) -> asyncio.AbstractServer:
        return await serve(sock, lambda: self._wire(door), door.tls, self._timeout)

    def close(self) -> None:
        """Close what was bound, also where it never came to serving."""
        for door in self.doors:
            door.listener.close()

    def _wire(self, door: PeerListener) -> Wire:
        frames = Frames(self._frame_limit, stranger=True)
        conversation = PeerConnection(
            door.channel,
            frames,
            frame,
            lambda message, conversation: self._received(door, frames, message, conversation),
            self._ended,
            limit=self._frame_limit,
            trace=self._trace,
        )
        conversation.name(f"a peer on {door.channel}")
        timer = asyncio.get_running_loop().call_later(self._timeout, self._too_late, conversation)
        self._unknown[conversation] = timer
        conversation.wire.opened.add_done_callback(lambda _: no_delay(conversation.wire.transport))
        if len(self._unknown) > _MOST_UNKNOWN or len(self._peers) >= _MOST_PEERS:
            asyncio.get_running_loop().call_soon(self._refuse, conversation, "too many connections")
        return conversation.wire

    def _too_late(self, conversation: PeerConnection) -> None:
        self._refuse(conversation, f"no identify within {self._timeout:g}s (channels.limits.handshake)")

    def _refuse(self, conversation: PeerConnection, why: str) -> None:
        self.refused += 1
        self._refusals[conversation.channel].add(f"refused: {why}")
        conversation.wire.end(ChannelError(conversation.channel, "", why))

    def _ended(self, conversation: PeerConnection, why: HostError | None) -> None:
        timer = self._unknown.pop(conversation, None)
        if timer is not None:
            timer.cancel()
        if self._peers.pop(conversation, None) is not None:
            for key in [key for key in self._asked if key[0] is conversation]:
                answer = self._asked.pop(key)
                if not answer.done():
                    answer.set_exception(ChannelError(conversation.channel, "", "the other side closed it"))
                    answer.exception()  # whoever asked may have been cancelled: then nobody takes it
            logger.info("%s has left%s", conversation.session.peer, f": {why}" if why is not None else "")

    def _received(self, door: PeerListener, frames: Frames, message: Received, conversation: PeerConnection) -> None:
        if conversation in self._unknown:
            self._identify(door, frames, message, conversation)
        elif isinstance(message, RouteToModule):
            self._route(message, conversation)
        elif isinstance(message, Publish):
            self._event(message, conversation)
        elif isinstance(message, Subscribe | Unsubscribe):
            self._subscribed(message, conversation)
        elif isinstance(message, Heartbeat):
            health = self._health() if "health" in conversation.session.extensions else None
            conversation.reply(HeartbeatAck(health))
        else:
            conversation.passed_over(message)
            if not isinstance(message, Unknown):
                error = refusal(
                    message, "unsupported", "a module does not answer this", conversation.session.extensions
                )
                if error is not None:
                    conversation.reply(error)

    def _identify(self, door: PeerListener, frames: Frames, message: Received, conversation: PeerConnection) -> None:
        if not isinstance(message, Identify):
            self._refuse(conversation, f"{cut(message.op, 40)} before identify")
            return
        tokens = door.tokens()
        presented = (message.auth_token or "").encode()
        # Each of them is compared, so that the time says nothing about which one fits.
        fits = [hmac.compare_digest(presented, token.encode()) for token in tokens]
        if tokens and not any(fits):
            self._refuse(conversation, "identify has no token, or another one (channels.tcp.token)")
            return
        if not 0 < len(message.module_id) <= _LONGEST_ID:
            self._refuse(conversation, "identify has no usable module_id")
            return
        self._unknown.pop(conversation).cancel()
        frames.admit()
        self._peers[conversation] = set()
        conversation.module_id = message.module_id
        conversation.vouched_by = "certificate" if message.module_id in _certified(conversation) else ""
        conversation.name(f"{cut(message.module_id, 60)} on {door.channel}")
        logger.info("%s is connected", conversation.session.peer)
        if message.extensions:
            conversation.reply(Identify(self._module_id, None, tuple(sorted(PEER_EXTENSIONS))))
            conversation.session.extensions = agreed(frozenset(message.extensions), PEER_EXTENSIONS)

    def _subscribed(self, message: Subscribe | Unsubscribe, conversation: PeerConnection) -> None:
        topics = self._peers[conversation]
        if isinstance(message, Unsubscribe):
            topics.discard(message.topic)
        elif len(topics) < _MOST_TOPICS and len(message.topic) <= _LONGEST_TOPIC:
            topics.add(message.topic)
        else:
            error = refusal(message, "refused", "too many topics, or too long a one", conversation.session.extensions)
            if error is not None:
                conversation.reply(error)

    # To those who are connected -------------------------------------------------------------------------------------

    def routes(self, target: str, channel: str | None) -> Sequence[_Route]:
        """As a carrier of messages: to a module that has connected itself to this one."""
        found = [
            _Route(self, conversation)
            for conversation in self._peers
            if conversation.module_id == target and conversation.open and channel in (None, conversation.channel)
        ]
        if len(found) > 1:  # processes of one module take turns
            self._turn += 1
            first = self._turn % len(found)
            found = found[first:] + found[:first]
        return found

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """As a carrier of messages: to those who have subscribed."""
        told = None
        for conversation, topics in tuple(self._peers.items()):
            if topic in topics and channel in (None, conversation.channel):
                conversation.reply(Event(topic, self._module_id, event))
                told = True
        return told

    async def ask(self, conversation: PeerConnection, request_id: str, payload: Payload, timeout: float) -> Payload:
        """The answer of a peer that is connected. Raises MessagingError."""
        target, key = conversation.module_id, (conversation, request_id)
        answer: asyncio.Future[RouteToModule] = asyncio.get_running_loop().create_future()
        self._asked[key] = answer
        try:
            conversation.session.send(RoutedMessage(self._module_id, request_id, payload))
            async with asyncio.timeout(timeout):
                return (await answer).payload
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s", target) from None
        except ChannelError as error:
            code = "lost" if answer.done() else "unavailable"
            raise MessagingError(code, f"the channel broke: {error.message}", target) from error
        finally:
            self._asked.pop(key, None)

    # From them ------------------------------------------------------------------------------------------------------

    def _route(self, message: RouteToModule, conversation: PeerConnection) -> None:
        answer = self._asked.get((conversation, message.request_id))
        if answer is not None:
            if not answer.done():
                answer.set_result(message)
            return
        if message.target_module_id == self._module_id:
            self._message(message, conversation)
            return
        text = f"{self._module_id} passes nothing on to {cut(message.target_module_id, 60)}"
        content = {"type": "error", "code": "unknown_target", "message": text}
        conversation.reply(RoutedResponse(self._module_id, message.request_id, Payload.of(content)))


@dataclass(frozen=True, slots=True)
class _Route:
    """The way to a peer that has connected itself."""

    listening: PeerServer
    conversation: PeerConnection
    keeps: ClassVar[bool] = False

    @property
    def channel(self) -> str:
        return self.conversation.channel

    @property
    def ready(self) -> bool:
        return self.conversation.open

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        return await self.listening.ask(self.conversation, request_id, payload, timeout)

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "no message is kept on this channel", target)

    async def available(self, timeout: float, target: str) -> None:
        return

    async def drained(self) -> None:
        await self.conversation.session.drained()


def _certified(conversation: PeerConnection) -> frozenset[str]:
    """The names in a peer's client certificate, which was verified: of the subject, and DNS and URI names."""
    certificate = conversation.wire.transport.get_extra_info("peercert") or {}
    names = {value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"}
    names |= {value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")}
    return frozenset(names)
