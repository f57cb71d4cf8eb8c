"""Unix sockets and TCP: connect to a peer, and accept the connections of peers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pywatt_host.channels.wire import Wire
from pywatt_host.exceptions import ChannelError

if TYPE_CHECKING:
    from ssl import SSLContext

MakeWire: TypeAlias = Callable[[], Wire]


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A Unix socket at a path."""

    path: str

    channel = "ipc"

    def __str__(self) -> str:
        return f"unix:{self.path}"

    async def connect(self, make: MakeWire) -> Wire:
        """Connect, with a wire from `make`. Raises OSError."""
        _, wire = await asyncio.get_running_loop().create_unix_connection(make, self.path)
        return wire


@dataclass(frozen=True, slots=True)
class TcpTarget:
    """A TCP address; with TLS where `tls` is given. `server_name` replaces the host in the TLS handshake."""

    host: str
    port: int
    tls: SSLContext | None = None
    server_name: str | None = None

    channel = "tcp"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    async def connect(self, make: MakeWire) -> Wire:
        """Connect, with a wire from `make`. Raises OSError, which includes ssl.SSLError."""
        name = (self.server_name or self.host) if self.tls is not None else None
        transport, wire = await asyncio.get_running_loop().create_connection(
            make, self.host, self.port, ssl=self.tls, server_hostname=name
        )
        no_delay(transport)
        return wire


Target: TypeAlias = UnixTarget | TcpTarget


def parse_target(address: str, tls: SSLContext | None = None, server_name: str | None = None) -> TcpTarget:
    """Read `IP:port`, `[::1]:port` or `name:port`. Raises ChannelError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ChannelError("tcp", address[:100], "it is not host:port")
    return TcpTarget(host.strip("[]"), int(port), tls, server_name)


def no_delay(transport: asyncio.BaseTransport) -> None:
    """Send small messages at once: turns off Nagle's algorithm (RFC 896)."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def serve(
    sock: socket.socket, make: MakeWire, tls: SSLContext | None = None, handshake: float | None = None
) -> asyncio.AbstractServer:
    """Accept connections on a bound socket, each with a wire from `make`. The event loop owns the socket from then on.
    `handshake` is the timeout of a TLS handshake, in seconds."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_server(make, sock=sock, backlog=128)
    timeout = handshake if tls is not None else None
    return await loop.create_server(make, sock=sock, backlog=128, ssl=tls, ssl_handshake_timeout=timeout)
