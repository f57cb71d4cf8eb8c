"""Who answers while the child is down: 503 for everything, with the reason."""

from __future__ import annotations

import asyncio
import os
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterable
from email.utils import formatdate

from pywatt_host.http.problem import problem_body, problem_headers, title
from pywatt_host.net.listeners import Listener

_PATIENCE = 2.0  # seconds for a request head, and again for the client to take the answer
_LONGEST_HEAD = 64 * 1024  # octets


class StandIn:
    """Accepts on sockets that it does not own, from `open` to `close`."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._detail = ""
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, listeners: Iterable[Listener], detail: str) -> None:
        """Answer every request 503 with this detail, also those that have been waiting."""
        self.close()
        self._detail = detail
        for listener in listeners:
            own = listener.sock.dup()
            own.setblocking(False)
            self._servers.append(await asyncio.start_server(self._connected, sock=own, limit=_LONGEST_HEAD))

    def close(self) -> None:
        """Accept no further connection; those that were accepted are still answered."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def gone(self) -> None:
        """Close, and cut what is still being answered."""
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
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(self._response(head.startswith(b"HEAD ")))
            writer.write_eof()
            async with asyncio.timeout(_PATIENCE):  # closing with octets unread would take the answer back (TCP reset)
                while await reader.read(_LONGEST_HEAD):
                    pass
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            pass  # no request, or nobody who would read the answer
        finally:
            writer.close()

    def _response(self, head_only: bool) -> bytes:
        body = problem_body(503, self._detail)
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
        return f"HTTP/1.1 503 {title(503)}\r\n".encode() + lines + b"\r\n" + (b"" if head_only else body)
