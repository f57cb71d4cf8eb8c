"""Answers every request with 503 and the reason, while no child serves."""

from __future__ import annotations

import asyncio
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterable
from email.utils import formatdate

from pywatt_host.http.allowed_hosts import AllowedHosts
from pywatt_host.http.problem import problem_body, problem_headers, title
from pywatt_host.net.listeners import Listener

_TIMEOUT = 2.0  # seconds for the client to send the request head, and again for it to read the response
_MAX_HEAD_BYTES = 64 * 1024


class UnavailableServer:
    """Accepts connections from `open` to `close`, on sockets that it does not own."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._detail = ""
        self._hosts = AllowedHosts((), loopback=True)
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, listeners: Iterable[Listener], detail: str, hosts: AllowedHosts) -> None:
        """Answer every request with 503 and this detail, including requests that already wait in a socket's queue. A
        request for another host than `hosts`, which may be that of another site's page, gets 421 and no detail."""
        self.close()
        self._detail, self._hosts = detail, hosts
        for listener in listeners:
            own = listener.sock.dup()
            own.setblocking(False)
            self._servers.append(await asyncio.start_server(self._connected, sock=own, limit=_MAX_HEAD_BYTES))

    def close(self) -> None:
        """Accept no further connection. Requests on accepted connections are still answered."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def aclose(self) -> None:
        """Accept no further connection, and cut those that are still open."""
        self.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def _connected(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._response(head))
            writer.write_eof()
            async with asyncio.timeout(_TIMEOUT):  # closing with bytes unread would reset the connection (TCP RST)
                while await reader.read(_MAX_HEAD_BYTES):
                    pass
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # the client sent no request, or does not read the response
        finally:
            writer.close()

    def _response(self, head: bytes) -> bytes:
        headers = [(name.strip().lower(), value.strip()) for name, _, value in _fields(head)]
        status, detail = (503, self._detail) if self._hosts.all_allowed(headers) else (421, "")
        body = problem_body(status, detail)
        headers = problem_headers(
            body,
            [
                (b"cache-control", b"no-store"),
                (b"retry-after", b"1"),
                (b"x-request-id", os.urandom(16).hex().encode()),
                (b"date", formatdate(usegmt=True).encode()),
                (b"connection", b"close"),
            ],
        )
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        without = head.startswith(b"HEAD ")
        return f"HTTP/1.1 {status} {title(status)}\r\n".encode() + lines + b"\r\n" + (b"" if without else body)


def _fields(head: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
