"""Peers that connect to this module: let in by identify and token, then heard like anybody else."""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.sockets import no_delay, serve
from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.conversation import Conversation
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.http.sockets import Listener
from pywatt_host.protocol.codec import Frames, frame
from pywatt_host.protocol.messages import (
    Heartbeat,
    HeartbeatAck,
    Identify,
    Received,
    RoutedResponse,
    RouteToModule,
    Unknown,
)
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import agreed, cut, refusal

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("pywatt.channels")

PEER_EXTENSIONS = frozenset({"request_id", "error", "inline_payload", "health"})
_MOST_UNKNOWN = 64  # connections that have not identified themselves
_MOST_PEERS = 1024
_LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Door:
    """What is listened on, and who is let in: `tokens` are those that are taken now, none where none is asked for."""

    channel: str
    listener: Listener
    tokens: Callable[[], tuple[str, ...]]
    tls: SSLContext | None = None


class Listening:
    """Takes peers on Unix sockets and TCP."""

    name = "peers"

    def __init__(
        self,
        module_id: str,
        *,
        frame_limit: int,
        handshake_timeout: float,
        message: Callable[[RouteToModule, Conversation], None],
        health: Callable[[], Mapping[str, Any]],
        trace: Trace | None = None,
    ) -> None:
        self.doors: list[Door] = []
        self.refused = 0
        self._module_id = module_id
        self._frame_limit = frame_limit
        self._timeout = handshake_timeout
        self._message = message
        self._health = health
        self._trace = trace
        # Shared by all who connect to a channel: one who comes a thousand times is logged as one who stays.
        self._refusals = {channel: BadRecords(f"a peer on {channel}") for channel in ("ipc", "tcp")}
        self._unknown: dict[Conversation, asyncio.TimerHandle] = {}
        self._peers: set[Conversation] = set()

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

    async def _serve(self, sock: socket.socket, door: Door) -> asyncio.AbstractServer:
        return await serve(sock, lambda: self._wire(door), door.tls, self._timeout)

    async def check(self) -> None:
        return

    def close(self) -> None:
        """Close what was bound, also where it never came to serving."""
        for door in self.doors:
            door.listener.close()

    def _wire(self, door: Door) -> Wire:
        frames = Frames(self._frame_limit, stranger=True)
        conversation = Conversation(
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

    def _too_late(self, conversation: Conversation) -> None:
        self._refuse(conversation, f"no identify within {self._timeout:g}s (channels.limits.handshake)")

    def _refuse(self, conversation: Conversation, why: str) -> None:
        self.refused += 1
        self._refusals[conversation.channel].add(f"refused: {why}")
        conversation.wire.end(ChannelError(conversation.channel, "", why))

    def _ended(self, conversation: Conversation, why: HostError | None) -> None:
        timer = self._unknown.pop(conversation, None)
        if timer is not None:
            timer.cancel()
        if conversation in self._peers:
            self._peers.discard(conversation)
            logger.info("%s has left%s", conversation.session.peer, f": {why}" if why is not None else "")

    def _received(self, door: Door, frames: Frames, message: Received, conversation: Conversation) -> None:
        if conversation in self._unknown:
            self._identify(door, frames, message, conversation)
        elif isinstance(message, RouteToModule):
            self._route(message, conversation)
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

    def _identify(self, door: Door, frames: Frames, message: Received, conversation: Conversation) -> None:
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
        self._peers.add(conversation)
        conversation.module_id = message.module_id
        conversation.name(f"{cut(message.module_id, 60)} on {door.channel}")
        logger.info("%s is connected", conversation.session.peer)
        if message.extensions:
            conversation.reply(Identify(self._module_id, None, tuple(sorted(PEER_EXTENSIONS))))
            conversation.session.extensions = agreed(frozenset(message.extensions), PEER_EXTENSIONS)

    def _route(self, message: RouteToModule, conversation: Conversation) -> None:
        if message.target_module_id == self._module_id:
            self._message(message, conversation)
            return
        text = f"{self._module_id} passes nothing on to {cut(message.target_module_id, 60)}"
        content = {"type": "error", "code": "unknown_target", "message": text}
        conversation.reply(RoutedResponse(self._module_id, message.request_id, Payload.of(content)))
