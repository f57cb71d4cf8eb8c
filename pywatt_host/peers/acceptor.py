"""Accepts peers: each connection is unknown until it has identified itself with a token that is accepted."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.sockets import no_delay, serve
from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.net.listeners import Listener
from pywatt_host.observability.running_clock import RunningTimer
from pywatt_host.peers.connection import Dispatch, MessageHandler, PeerConnection
from pywatt_host.protocol.codec import Frames, frame
from pywatt_host.protocol.messages import MESSAGES, Extensions, Identify, Message, Unknown
from pywatt_host.protocol.session import agreed, cut

if TYPE_CHECKING:
    from ssl import SSLContext

_MAX_UNKNOWN = 64  # connections that have not identified themselves
_MAX_ID_LENGTH = 128  # characters of a module id


@dataclass(frozen=True, slots=True)
class PeerListener:
    """A socket where peers connect. `tokens` gives the tokens that are accepted now; while it gives none, no token is
    needed."""

    channel: str
    listener: Listener
    tokens: Callable[[], tuple[str, ...]] = tuple
    tls: SSLContext | None = None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What belongs to a connection that has not identified itself yet."""

    listener: PeerListener
    frames: Frames
    timer: RunningTimer


@dataclass(slots=True, kw_only=True, eq=False)
class Acceptor:
    """Takes connections on listeners, and admits the peers that identify themselves in time."""

    name: str  # the module id that an admitted peer is told
    extensions: Extensions  # the extensions that it is offered
    dispatch: Dispatch  # handles the messages of admitted peers
    unhandled: MessageHandler | None = None  # takes the messages that `dispatch` does not name
    # The tokens that an identify may present, each with the owner that the connection has then; None where no token is
    # needed.
    candidates: Callable[[Identify, PeerListener], Iterable[tuple[str, Any]] | None]
    admitted: Callable[[PeerConnection], None]  # called before an admitted peer is answered
    left: Callable[[PeerConnection, HostError | None], None]  # called when an admitted peer has left
    frame_limit: int  # bytes
    timeout: float  # seconds until identify
    timeout_text: str  # the reason in the log where identify is too late
    token_text: str  # the reason in the log where identify has no accepted token
    max_peers: float = math.inf
    ignored_early: frozenset[type[Any]] = frozenset()  # messages before identify that are ignored and not refused
    trace: Trace | None = None
    refused: int = field(default=0, init=False)  # connections that were not admitted
    peers: dict[PeerConnection, None] = field(default_factory=dict, init=False)  # the admitted ones, in order
    _unknown: dict[PeerConnection, _Waiting] = field(default_factory=dict, init=False)
    # One for all unknown peers of a channel: a peer that connects a thousand times cannot log more than one that stays.
    _records: dict[str, BadRecords] = field(default_factory=dict, init=False)
    _before_identify: Dispatch = field(init=False)

    def __post_init__(self) -> None:
        early = (kind for kind in (*MESSAGES, Unknown) if kind not in self.ignored_early)
        self._before_identify = {**dict.fromkeys(early, self._too_early), Identify: self._identify}

    @asynccontextmanager
    async def accepting(self, listeners: Iterable[PeerListener]) -> AsyncIterator[None]:
        """Accept connections; leaving closes all of them, also those in the middle of a TLS handshake."""
        servers: list[asyncio.AbstractServer] = []
        try:
            for each in listeners:
                own = each.listener.sock.dup()
                servers.append(await serve(own, partial(self._wire, each), each.tls, self.timeout))
            yield
        finally:
            for server in servers:
                server.close()
            for connection in (*self._unknown, *self.peers):
                connection.close()
            for records in self._records.values():
                records.summary()

    def _wire(self, listener: PeerListener) -> Wire:
        loop, channel, peer = asyncio.get_running_loop(), listener.channel, f"a peer on {listener.channel}"
        frames = Frames(self.frame_limit, stranger=True)
        connection = PeerConnection(
            channel, peer, frames, frame, self._before_identify, self._ended,
            limit=self.frame_limit, unhandled=self.unhandled, trace=self.trace,
        )  # fmt: skip
        connection.wire.records = self._records.setdefault(channel, BadRecords(peer, shared=True))
        connection.wire.opened.add_done_callback(lambda _: no_delay(connection.wire.transport))
        timer = RunningTimer(self.timeout, self._refuse, connection, self.timeout_text)
        self._unknown[connection] = _Waiting(listener, frames, timer)
        if len(self._unknown) > _MAX_UNKNOWN or len(self.peers) >= self.max_peers:
            loop.call_soon(self._refuse, connection, "too many connections")
        return connection.wire

    def _refuse(self, connection: PeerConnection, why: str) -> None:
        self.refused += 1
        self._records[connection.channel].refused(why)
        connection.close(ChannelError(connection.channel, "", why))

    def _ended(self, connection: PeerConnection, why: HostError | None) -> None:
        waiting = self._unknown.pop(connection, None)
        if waiting is not None:
            waiting.timer.cancel()
        elif connection in self.peers:
            del self.peers[connection]
            self.left(connection, why)

    def _too_early(self, message: Message | Unknown, connection: PeerConnection) -> None:
        self._refuse(connection, f"{cut(message.op, 40)} before identify")

    def _identify(self, message: Identify, connection: PeerConnection) -> None:
        waiting = self._unknown[connection]
        candidates = self.candidates(message, waiting.listener)
        if candidates is not None:
            presented = (message.auth_token or "").encode()
            # Every candidate is compared, so that the time taken does not tell which one matches.
            owners = [owner for token, owner in candidates if hmac.compare_digest(presented, token.encode())]
            if not owners:
                self._refuse(connection, self.token_text)
                return
            connection.owner = owners[-1]
        if not 0 < len(message.module_id) <= _MAX_ID_LENGTH:
            self._refuse(connection, "identify has no usable module_id")
            return
        waiting.timer.cancel()
        del self._unknown[connection]
        self.peers[connection] = None
        waiting.frames.admit()
        connection.dispatch = self.dispatch
        connection.module_id = message.module_id
        self.admitted(connection)
        if message.extensions:
            connection.send(Identify(self.name, None, tuple(sorted(self.extensions))))
            connection.session.extensions = agreed(frozenset(message.extensions), self.extensions)
