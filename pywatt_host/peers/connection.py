"""A peer that is connected: its wire and its session in one, and what to do with what it says."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pywatt_host.channels.wire import Trace, Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.protocol.codec import Decoder, Encode
from pywatt_host.protocol.messages import Extensions, Message, Received, Unknown
from pywatt_host.protocol.session import Session, cut

logger = logging.getLogger("pywatt.channels")


class PeerConnection:
    """`handle` gets what is no answer to a request of ours; `ended` is called once, with why, or None where the peer
    closed in order. `limit`: most octets of a message."""

    def __init__(
        self,
        channel: str,
        decoder: Decoder,
        encode: Encode,
        handle: Callable[[Received, PeerConnection], None],
        ended: Callable[[PeerConnection, HostError | None], None],
        *,
        limit: int,
        extensions: Extensions = frozenset(),
        trace: Trace | None = None,
    ) -> None:
        self.channel = channel
        self.module_id = ""  # who it said it is, once it was let in
        self.vouched_by = ""  # who says that it is so, beside itself
        self.wire = Wire(channel, decoder, self._receive, self._wire_ended, trace=trace)
        self.session = Session(channel, self.wire, encode, extensions, limit)
        self._handle = handle
        self._ended = ended
        self._unknown: set[str] = set()

    @property
    def open(self) -> bool:
        return self.session.lost is None and not self.wire.closing

    def name(self, peer: str) -> None:
        """What logs and errors call the peer."""
        self.wire.peer = self.session.peer = self.wire.records.peer = peer

    def reply(self, message: Message) -> None:
        """Send, where the peer is still there; a peer that has gone needs no answer."""
        try:
            self.session.send(message)
        except HostError as error:
            logger.debug("%s: no answer was sent: %s", self.session.peer, error)

    def end(self, why: HostError | None = None) -> None:
        self.wire.end(why)

    def _receive(self, message: Received) -> None:
        if self.session.answered(message):
            return
        if message.__class__ is Unknown:
            self.passed_over(message)
            return
        self._handle(message, self)

    def passed_over(self, message: Received) -> None:
        """An operation that means nothing here: said once each, then ignored."""
        op = cut(message.op, 40)
        if op not in self._unknown and len(self._unknown) < 100:
            self._unknown.add(op)
            logger.debug("%s sent %s, which is ignored here", self.session.peer, op)

    def _wire_ended(self, why: HostError | None) -> None:
        self.session.close(why or ChannelError(self.channel, "", "the other side closed it"))
        self._ended(self, why)
