"""A connected peer: its wire, its session, and the handler for each class of message that it sends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.protocol.codec import Decoder, Encode
from pywatt_host.protocol.messages import Extensions, Message, Received
from pywatt_host.protocol.session import Session, cut, refusal

logger = logging.getLogger("pywatt.channels")

_MAX_LOGGED_OPERATIONS = 100  # different operations of one peer that are logged as ignored

MessageHandler: TypeAlias = Callable[[Any, "PeerConnection"], object]
Dispatch: TypeAlias = Mapping[type[Any], MessageHandler]  # which handler takes the messages of a class


class PeerConnection:
    """One connection to a peer, used by modules and by the local orchestrator alike.

    A received message goes to the handler for its class in `dispatch`, in the same turn of the event loop. A message
    without a handler answers one of our requests, or goes to `unhandled`, which by default ignores it. `dispatch` may
    be replaced at any time. `ended` is called once, with the reason, or None where the peer closed the connection in
    order. `limit` is the maximum size of a message that is sent, in bytes. `mask` removes secrets from what the log
    shows of records that are not part of the protocol.
    """

    def __init__(
        self,
        channel: str,
        peer: str,
        decoder: Decoder,
        encode: Encode,
        dispatch: Dispatch,
        ended: Callable[[PeerConnection, HostError | None], None],
        *,
        limit: int,
        extensions: Extensions = frozenset(),
        unhandled: MessageHandler | None = None,
        trace: Trace | None = None,
        mask: Callable[[str], str] | None = None,
    ) -> None:
        self.channel = channel
        self.dispatch = dispatch
        self.owner: Any = None  # what this side says the connection belongs to, never what the peer claims
        self.module_id = ""  # the id that the peer gave, once it was admitted
        self.vouched_by = ""  # who confirms that id, beside the peer itself
        self.wire = Wire(
            channel, decoder, self._receive, self._wire_ended, trace=trace, records=BadRecords(peer, mask=mask)
        )
        self.wire.peer = peer
        self.session = Session(peer, self.wire, encode, extensions, limit)
        self._ended = ended
        self._unhandled = unhandled
        self._mask = mask
        self._ignored: set[str] = set()

    @property
    def peer(self) -> str:
        """The name of the peer in logs and errors."""
        return self.session.peer

    @property
    def open(self) -> bool:
        """Whether messages can be sent."""
        return self.session.lost is None and not self.wire.closing

    def rename(self, peer: str) -> None:
        """Change the name of the peer in logs and errors."""
        self.wire.records = BadRecords(peer, mask=self._mask)
        self.wire.peer = self.session.peer = peer

    def send(self, message: Message) -> bool:
        """Send a message and tell whether it went out. A peer that has left, or that does not read, does not get it;
        use `session.send` where that is an error."""
        try:
            self.session.send(message)
        except HostError as error:
            logger.debug("%s: %s was not sent: %s", self.session.peer, message.op, error)
            return False
        return True

    def refuse(self, message: Received, code: str, text: str) -> None:
        """Answer a request with an error, where the peer knows errors."""
        error = refusal(message, code, text, self.session.extensions)
        if error is not None:
            self.send(error)

    def close(self, why: HostError | None = None) -> None:
        """End the connection after sending what waits to be sent. `ended` is called at once."""
        self.wire.end(why)

    def abort(self, why: HostError | None = None) -> None:
        """End the connection and drop what waits to be sent. `ended` is called at once."""
        self.wire.end(why, abort=True)

    def ignore(self, message: Received) -> None:
        """Log an operation that has no meaning here: once for each operation, at debug level."""
        operation = cut(message.op, 40)
        if operation not in self._ignored and len(self._ignored) < _MAX_LOGGED_OPERATIONS:
            self._ignored.add(operation)
            logger.debug("%s sent %s, which is ignored here", self.session.peer, operation)

    def _receive(self, message: Received) -> None:
        handler = self.dispatch.get(message.__class__)
        if handler is not None:
            handler(message, self)
        elif not self.session.answered(message):
            if self._unhandled is not None:
                self._unhandled(message, self)
            else:
                self.ignore(message)

    def _wire_ended(self, why: HostError | None) -> None:
        self.session.close(why or ChannelError(self.channel, "", "the other side closed it"))
        self._ended(self, why)
