"""Accepts peers: each connection is unknown until it has identified itself with a token that is accepted."""

from __future__ import annotations

import asyncio
import hmac
import math
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.sockets import no_delay, serve
from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.net.listeners import Listener
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
    timer: asyncio.TimerHandle


class Acceptor:
    """Takes connections on listeners, and admits the peers that identify themselves in time."""

    def __init__(
        self,
        name: str,
        extensions: Extensions,
        dispatch: Dispatch,
        *,
        candidates: Callable[[Identify, PeerListener], Iterable[tuple[str, Any]] | None],
        admitted: Callable[[PeerConnection], None],
        left: Callable[[PeerConnection, HostError | None], None],
        frame_limit: int,
        timeout: float,
        timeout_text: str,
        token_text: str,
        max_peers: float = math.inf,
        ignored_from_unknown: frozenset[type[Any]] = frozenset(),
        unhandled: MessageHandler | None = None,
        trace: Trace | None = None,
    ) -> None:
        """`name` and `extensions` are what an admitted peer is told. Once admitted, its messages go by `dispatch` and
        `unhandled`.

        `candidates` gives the tokens that an identify may present, each with the owner that the connection has then;
        None where no token is needed. `admitted` is called before the peer is answered, `left` when an admitted peer
        has left. `timeout` is the time until identify, in seconds. `timeout_text` and `token_text` are the reasons
        that the log gives for a refusal. A message before identify is refused, except those of the classes in
        `ignored_from_unknown`.
        """
        self.refused = 0  # connections that were not admitted
        self.peers: dict[PeerConnection, None] = {}  # those that were admitted, in that order
        self._name = name
        self._extensions = extensions
        self._dispatch = dispatch
        self._candidates = candidates
        self._admitted = admitted
        self._left = left
        self._frame_limit = frame_limit
        self._timeout = timeout
        self._timeout_text = timeout_text
        self._token_text = token_text
        self._max_peers = max_peers
        self._unhandled = unhandled
        self._trace = trace
        self._unknown: dict[PeerConnection, _Waiting] = {}
        early = (kind for kind in (*MESSAGES, Unknown) if kind not in ignored_from_unknown)
        self._before_identify: Dispatch = {**dict.fromkeys(early, self._too_early), Identify: self._identify}
        # One for all unknown peers of a channel: a peer that connects a thousand times cannot log more than one that
        # stays.
        self._records: dict[str, BadRecords] = {}

    @asynccontextmanager
    async def accepting(self, listeners: Iterable[PeerListener]) -> AsyncIterator[None]:
        """Accept connections; leaving closes all of them, also those in the middle of a TLS handshake."""
        servers: list[asyncio.AbstractServer] = []
        try:
            for each in listeners:
                own = each.listener.sock.dup()
                servers.append(await serve(own, partial(self._wire, each), each.tls, self._timeout))
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
        frames = Frames(self._frame_limit, stranger=True)
        connection = PeerConnection(
            channel, peer, frames, frame, self._before_identify, self._ended,
            limit=self._frame_limit, unhandled=self._unhandled, trace=self._trace,
        )  # fmt: skip
        connection.wire.records = self._records.setdefault(channel, BadRecords(peer, shared=True))
        connection.wire.opened.add_done_callback(lambda _: no_delay(connection.wire.transport))
        timer = loop.call_later(self._timeout, self._refuse, connection, self._timeout_text)
        self._unknown[connection] = _Waiting(listener, frames, timer)
        if len(self._unknown) > _MAX_UNKNOWN or len(self.peers) >= self._max_peers:
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
            self._left(connection, why)

    def _too_early(self, message: Message | Unknown, connection: PeerConnection) -> None:
        self._refuse(connection, f"{cut(message.op, 40)} before identify")

    def _identify(self, message: Identify, connection: PeerConnection) -> None:
        waiting = self._unknown[connection]
        candidates = self._candidates(message, waiting.listener)
        if candidates is not None:
            presented = (message.auth_token or "").encode()
            # Every candidate is compared, so that the time taken does not tell which one matches.
            owners = [owner for token, owner in candidates if hmac.compare_digest(presented, token.encode())]
            if not owners:
                self._refuse(connection, self._token_text)
                return
            connection.owner = owners[-1]
        if not 0 < len(message.module_id) <= _MAX_ID_LENGTH:
            self._refuse(connection, "identify has no usable module_id")
            return
        waiting.timer.cancel()
        del self._unknown[connection]
        self.peers[connection] = None
        waiting.frames.admit()
        connection.dispatch = self._dispatch
        connection.module_id = message.module_id
        self._admitted(connection)
        if message.extensions:
            connection.send(Identify(self._name, None, tuple(sorted(self._extensions))))
            connection.session.extensions = agreed(frozenset(message.extensions), self._extensions)
