"""One connection to a module: standard input and output, or a frame channel that it opened."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pywatt_host.channels.records import BadRecords
from pywatt_host.channels.wire import Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.protocol.codec import Decoder, Encode
from pywatt_host.protocol.messages import Message, Received
from pywatt_host.protocol.session import Session, cut

if TYPE_CHECKING:
    from pywatt_host.orchestrator.replica import Replica

logger = logging.getLogger("pywatt.wattson")

_MOST_UNKNOWN = 100  # operations that are remembered as told

Duty: TypeAlias = Callable[[Any, "Link"], object]


class Duties(Protocol):
    """What to do with a message, by its class; None where it is none of these."""

    def get(self, kind: type[Any], /) -> Duty | None: ...


class Link:
    """A wire and its session. What arrives goes to the duty for its class, at once and without a task; what is none
    is an answer to a request of ours. `replica` is whose it is, by our own word and never by the peer's."""

    def __init__(
        self,
        channel: str,
        peer: str,
        decoder: Decoder,
        encode: Encode,
        duties: Duties,
        ended: Callable[[Link, HostError | None], None],
        limit: int,
        mask: Callable[[str], str] | None = None,
    ) -> None:
        self.channel = channel
        self.replica: Replica | None = None
        self.duties = duties
        self.wire = Wire(channel, decoder, self._received, self._ended, records=BadRecords(peer, mask=mask))
        self.session = Session(peer, self.wire, encode, limit=limit)
        self.name(peer)
        self._tell_end = ended
        self._told: set[str] = set()

    @property
    def open(self) -> bool:
        return self.session.lost is None

    def name(self, peer: str) -> None:
        """What logs and errors call it."""
        if peer != self.session.peer:
            self.wire.records = BadRecords(peer, mask=self.wire.records.mask)
        self.wire.peer = self.session.peer = peer

    def send(self, message: Message) -> bool:
        """Whether it went out: a peer that is gone needs no answer, and one that does not read gets none."""
        try:
            self.session.send(message)
        except HostError as error:
            logger.debug("%s: %s was not sent: %s", self.session.peer, message.op, error)
            return False
        return True

    def end(self, why: HostError | None = None) -> None:
        """Close, at once."""
        self.wire.end(why, abort=True)

    def _received(self, message: Received) -> None:
        duty = self.duties.get(message.__class__)
        if duty is not None:
            duty(message, self)
        elif not self.session.answered(message):
            self._pass_over(message.op)

    def _pass_over(self, op: str) -> None:
        shown = cut(op, 40)
        if shown not in self._told and len(self._told) < _MOST_UNKNOWN:
            self._told.add(shown)
            logger.debug("%s sent %s, which means nothing here", self.session.peer, shown)

    def _ended(self, why: HostError | None) -> None:
        self.session.close(why or ChannelError(self.channel, "", "the other side closed it"))
        self._tell_end(self, why)
