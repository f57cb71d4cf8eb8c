"""One connection: bytes in, messages out, and back-pressure both ways. The same for pipes, Unix sockets and TCP."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, Protocol

from pywatt_host.channels.records import BadRecords
from pywatt_host.exceptions import ChannelError, HostError, MessagingError, ProtocolError
from pywatt_host.protocol.codec import Decoder, read
from pywatt_host.protocol.messages import Received

logger = logging.getLogger("pywatt.channels")

_SENSITIVE = re.compile(rb"secret|token|passw|\"env\"|authorization", re.IGNORECASE)
_HIGH_WATER = 1024**2  # bytes in the buffer from which on senders are asked to wait
MAX_BUFFERED = 64 * 1024**2  # bytes that may wait for a peer that does not read


class Trace(Protocol):
    """Records each unit that is sent or received. `direction` is `in` or `out`."""

    def __call__(self, channel: str, peer: str, direction: str, unit: bytes) -> None: ...


class Wire(asyncio.Protocol):
    """A connection, from its opening to its end.

    `receive` is called for each message. `ended` is called once, with the reason, or None where the other side closed
    the connection in order. A unit that is not part of the protocol is logged and ignored, or handed to `bad`. A stream
    that cannot be decoded any further closes the connection.
    """

    def __init__(
        self,
        channel: str,
        decoder: Decoder,
        receive: Callable[[Received], None],
        ended: Callable[[HostError | None], None],
        *,
        trace: Trace | None = None,
        records: BadRecords | None = None,
        bad: Callable[[ProtocolError, bytes], None] | None = None,
    ) -> None:
        self.channel = channel
        self.peer = channel
        self.records = records or BadRecords(channel)
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._decoder = decoder
        self._receive = receive
        self._ended: Callable[[HostError | None], None] | None = ended
        self._trace = trace
        self._bad = bad
        self.transport: Any = None
        self._out: Any = None  # where it is written: two pipes have a transport each
        self._writable = asyncio.Event()
        self._writable.set()

    # As a session's outlet ------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes, now or once the peer takes them. Raises MessagingError where 64 MiB wait for the peer already,
        ChannelError where the connection has ended."""
        out = self._out
        if self.closing:
            raise ChannelError(self.channel, "", "the connection is closed")
        if not self._writable.is_set() and out.get_write_buffer_size() + len(data) > MAX_BUFFERED:
            raise MessagingError("unavailable", "the peer does not read what it is sent", self.peer)
        if self._trace is not None:
            self._trace(self.channel, self.peer, "out", data)
        out.write(data)

    async def drained(self) -> None:
        """Return once the peer has taken enough to send more."""
        if not self._writable.is_set():
            await self._writable.wait()

    @property
    def closing(self) -> bool:
        """Whether nothing can be written any more, also where `ended` has not been called yet."""
        # `is_closing` of asyncio's TLS transports is false again once they are closed.
        return self._ended is None or self._out is None or self._out.is_closing()

    @property
    def buffered(self) -> int:
        """The number of bytes that wait for the peer."""
        return self._out.get_write_buffer_size() if self._out is not None else 0

    # As asyncio's protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        if self._ended is None:  # refused before it was open, for example as one too many
            self._abort()
            return
        if self._out is None and hasattr(transport, "write"):  # not for the reading end of a pipe
            self.write_to(transport)  # type: ignore[arg-type]  # uvloop registers its own nowhere
        if not self.opened.done():
            self.opened.set_result(None)

    def write_to(self, transport: asyncio.WriteTransport) -> None:
        """Write to this transport. Called by `connection_made`, and by hand for the writing end of a pipe."""
        self._out = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        try:
            units = self._decoder.feed(data)
        except ProtocolError as error:
            logger.error("%s: the channel is closed: %s", self.peer, error, extra={"peer": self.peer})
            self.records.count += 1
            self.end(ChannelError(self.channel, "", str(error)), abort=True)
            return
        for unit in units:
            if self._trace is not None:
                self._trace(self.channel, self.peer, "in", unit)
            try:
                message = read(unit)
            except ProtocolError as error:
                if self._bad is not None:
                    self._bad(error, unit)
                else:
                    self.records.add(str(error), unit if _may_be_shown(error, unit) else b"")
                continue
            if self._ended is None:
                return
            self._receive(message)

    def eof_received(self) -> None:
        return None  # which closes the transport

    def connection_lost(self, error: Exception | None) -> None:
        why = None
        if error is not None:
            why = ChannelError(self.channel, "", str(error)[:200] or "lost")
            why.__cause__ = error
        self._finish(why)
        self.close()  # the other one of two pipes

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Ending ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send what waits, then close. `ended` is called when that is done."""
        for transport in (self._out, self.transport):
            if transport is not None and not transport.is_closing():
                transport.close()

    def end(self, why: HostError | None, *, abort: bool = False) -> None:
        """Call `ended` with the reason, then close, or, with `abort`, drop what waits and close."""
        self._finish(why)
        if abort:
            self._abort()
        else:
            self.close()

    def _abort(self) -> None:
        for transport in (self._out, self.transport):
            if transport is not None:
                try:
                    transport.abort()
                except (AttributeError, NotImplementedError):  # the reading end of a pipe
                    transport.close()

    def _finish(self, why: HostError | None) -> None:
        ended, self._ended = self._ended, None
        self._writable.set()  # wakes those that wait for the peer
        self.records.connection_ended()
        if ended is not None:
            ended(why)


def _may_be_shown(error: ProtocolError, unit: bytes) -> bool:
    """Whether the log may show the unit: only what is not JSON, and does not seem to contain secrets."""
    return error.code == "json" and _SENSITIVE.search(unit) is None


class PipeEnd(asyncio.Protocol):
    """The writing end of a pipe: tells the wire when to wait, and when the reading end is closed."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def connection_lost(self, error: Exception | None) -> None:
        self._wire.connection_lost(error)

    def pause_writing(self) -> None:
        self._wire.pause_writing()

    def resume_writing(self) -> None:
        self._wire.resume_writing()
