"""The gateway's HTTP/1.1 client: streams both ways, and keeps connections for the next request."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.observability.running_clock import running_timeout
from pywatt_host.types import Headers

if TYPE_CHECKING:
    import ssl

_CONNECT_TIMEOUT = 2.0  # seconds
_IDLE_TIMEOUT = (
    2.0  # seconds that a connection is kept: well below what servers use, so that they do not close it first
)
_MAX_IDLE = 64  # connections to one address
_READ_SIZE = 65536  # bytes
_MAX_HEAD_SIZE = 65536  # bytes of a response head
FINAL = range(200, 600)  # statuses that a response may end with (RFC 9110, section 15)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a module listens: a Unix socket's path, or host and port. `secure`: it speaks TLS there."""

    path: str | None
    host: str = ""
    port: int = 0
    secure: bool = False

    @classmethod
    def parse(cls, text: str) -> Address | None:
        """Read an announced address: `IP:port`, `https://IP:port` or an absolute path. None where nothing can listen
        there."""
        secure = text.startswith("https://")
        text = text.removeprefix("https://").removeprefix("http://").removeprefix("unix:")
        if text.startswith("/") and not secure:
            return cls(text)
        host, _, port = text.rstrip("/").rpartition(":")
        if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            return None
        host = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
        return cls(None, host, int(port), secure)


class BrokenError(Exception):
    """The module closed the connection before its response was complete, or its answer is not HTTP. `silent` means that
    it had not answered anything, on a connection that was used before."""

    def __init__(self, why: str, *, silent: bool = False) -> None:
        self.silent = silent
        super().__init__(why)


class UpstreamConnection:
    """One connection, one request at a time."""

    def __init__(self, address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address = address
        self._h11: Any = import_module("h11")
        self._reader = reader
        self._writer = writer
        self._state: Any = self._h11.Connection(self._h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_SIZE)
        self._used = 0
        self._answered = False
        self._ended = False  # our side is
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether nothing arrived while it was idle: that would be taken for the next response."""
        fresh = time.monotonic() - self.idle_since < _IDLE_TIMEOUT
        return fresh and not self._unread and not self._reader.at_eof() and not self._writer.transport.is_closing()

    @property
    def _unread(self) -> bool:
        """Whether more has arrived than the response."""
        waiting: bytes | bytearray = getattr(self._reader, "_buffer", b"")
        return bool(waiting) or bool(self._state.trailing_data[0])

    def begin(self, method: str, target: bytes, headers: Headers, *, body: bool) -> None:
        """Send the head of a request, and its end where there is no body. Raises BrokenError for an invalid head."""
        self._used += 1
        self._answered = False
        try:
            data = self._state.send(self._h11.Request(method=method, target=target, headers=headers))
            if not body:
                data += self._state.send(self._h11.EndOfMessage())
        except self._h11.LocalProtocolError as error:
            raise BrokenError(str(error)) from error
        self._writer.write(data)

    async def send(self, piece: bytes, *, more: bool) -> None:
        """Send a piece of the body. Raises BrokenError, also where the body is not as long as its head says."""
        try:
            if piece:
                self._writer.write(self._state.send(self._h11.Data(data=piece)))
            if not more:
                self._writer.write(self._state.send(self._h11.EndOfMessage()))
            await self._writer.drain()
        except (self._h11.LocalProtocolError, OSError) as error:
            raise BrokenError(str(error)) from error

    @property
    def request_sent(self) -> bool:
        """Whether the whole request has been sent."""
        return self._state.our_state is not self._h11.SEND_BODY

    def end_request(self) -> None:
        """End our side of the connection, as the client has ended its own. The module may still answer."""
        if self._writer.can_write_eof() and not self._writer.transport.is_closing():
            self._writer.write_eof()
            self._ended = True

    async def head(self) -> tuple[int, Headers]:
        """Wait for the status and the headers of the response. Raises BrokenError."""
        while True:
            event = await self._next()
            if isinstance(event, self._h11.Response):
                if event.http_version not in (b"1.0", b"1.1"):
                    raise BrokenError("its answer is of another version of HTTP")
                if event.status_code not in FINAL:
                    raise BrokenError(f"its answer is not HTTP: the status is {event.status_code}")
                return event.status_code, [(bytes(name), bytes(value)) for name, value in event.headers]
            if not isinstance(event, self._h11.InformationalResponse):
                raise self._broken("it closed the connection")

    async def body(self) -> AsyncIterator[bytes]:
        """The pieces of the response. Raises BrokenError where it breaks off."""
        while True:
            event = await self._next()
            if isinstance(event, self._h11.Data):
                yield bytes(event.data)
            elif isinstance(event, self._h11.EndOfMessage):
                return
            else:
                raise BrokenError("the response broke off")

    async def _next(self) -> Any:
        try:
            while (event := self._state.next_event()) is self._h11.NEED_DATA:
                data = await self._reader.read(_READ_SIZE)
                self._answered = self._answered or bool(data)
                self._state.receive_data(data)
        except self._h11.RemoteProtocolError as error:
            raise self._broken(f"its answer is not HTTP: {error}") from error
        except OSError as error:
            raise self._broken((error.strerror or "lost").lower()) from error
        return event

    def _broken(self, why: str) -> BrokenError:
        return BrokenError(why, silent=not self._answered and self._used > 1)

    def reset(self) -> bool:
        """Get ready for another request; False where that is not possible. Anything beyond the response (a body for
        HEAD, or a second response) would be taken for the next response."""
        h11 = self._h11
        if self._unread or self._ended:
            return False
        if self._state.our_state is not h11.DONE or self._state.their_state is not h11.DONE:
            return False
        self._state.start_next_cycle()
        self.idle_since = time.monotonic()
        return True

    def close(self) -> None:
        self._writer.transport.abort()


class UpstreamPool:
    """The idle connections, by address."""

    def __init__(self) -> None:
        self._secure: ssl.SSLContext | None = None  # made for the first module that speaks TLS
        self._idle: defaultdict[Address, list[UpstreamConnection]] = defaultdict(list)

    async def take(self, address: Address, *, fresh: bool) -> UpstreamConnection:
        """Take an idle connection, or open one; with `fresh`, always open one. Raises OSError and TimeoutError."""
        idle = self._idle[address]
        while idle and not fresh:
            connection = idle.pop()
            if connection.usable:
                return connection
            connection.close()
        async with running_timeout(_CONNECT_TIMEOUT):
            if address.path is not None:
                reader, writer = await asyncio.open_unix_connection(address.path, limit=_READ_SIZE)
            else:
                tls = self.context() if address.secure else None
                reader, writer = await asyncio.open_connection(
                    address.host, address.port, limit=_READ_SIZE, ssl=tls, server_hostname=address.host if tls else None
                )
        return UpstreamConnection(address, reader, writer)

    def context(self) -> ssl.SSLContext:
        """The context for modules that speak TLS. Their certificates are not verified: they are for the names that
        clients know, and the gateway has started the process that listens, on this machine."""
        if self._secure is None:
            library = import_module("ssl")
            context: ssl.SSLContext = library.SSLContext(library.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = library.CERT_NONE
            self._secure = context
        return self._secure

    def give_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request, or close it."""
        idle = self._idle[connection.address]
        if len(idle) < _MAX_IDLE and connection.reset():
            idle.append(connection)
        else:
            connection.close()

    def forget(self, address: Address) -> None:
        """Close the idle connections to an address at which nothing listens any more."""
        for connection in self._idle.pop(address, ()):
            connection.close()

    def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
