"""HTTP requests that come over a channel: through the edge and the application here, one message each way."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from pywatt_host.http.inprocess import TooLargeError, request
from pywatt_host.http.problem import problem_body, problem_headers
from pywatt_host.protocol.messages import HttpRequest, HttpResponse
from pywatt_host.protocol.session import cut
from pywatt_host.types import ASGIApp

logger = logging.getLogger("pywatt.channels")

_FRAME_SHARE, _FRAME_REST = 4, 64 * 1024  # byte numbers cost about 3.6 octets each; the rest is for everything else
_TIMEOUT = 60.0  # seconds for a whole response where server.timeouts.request is off

# RFC 9110, section 7.6.1: these are a connection's own.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


class ChannelRequests:
    """Answers as long as it runs; leaving lets what runs come to its end."""

    name = "requests over channels"

    def __init__(
        self, app: Callable[[], ASGIApp | None], *, body: int | None, frame: int, timeout: float | None
    ) -> None:
        share = max(0, frame // _FRAME_SHARE - _FRAME_REST)
        self._most = share if body is None else min(body, share)
        self._most_back = share
        self._timeout = timeout or _TIMEOUT
        self._app = app
        self._running: set[asyncio.Task[HttpResponse]] = set()
        self._open = False

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._open = True
        try:
            yield
            self._open = False
            if self._running:
                await asyncio.wait(self._running)
        finally:
            self._open = False
            for task in self._running:
                task.cancel()

    async def __call__(self, message: HttpRequest) -> HttpResponse:
        """The response: the application's own, or a problem (RFC 9457) with 400, 413, 502 or 503."""
        app = self._app()
        if app is None or not self._open:
            return _problem(message, 503, "The module is not serving.")
        if len(message.body or b"") > self._most:
            return _problem(message, 413, f"The body is longer than {self._most} octets.")
        try:
            path, query = _split(message.uri)
            headers = _headers(message.headers)
        except ValueError:
            return _problem(message, 400, "The request line or a header cannot be read.")
        task = asyncio.get_running_loop().create_task(self._respond(app, message, path, query, headers))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await task

    async def _respond(
        self, app: ASGIApp, message: HttpRequest, path: str, query: bytes, headers: list[tuple[bytes, bytes]]
    ) -> HttpResponse:
        try:
            async with asyncio.timeout(self._timeout):
                status, back, body = await request(
                    app,
                    path,
                    method=message.method,
                    query=query,
                    headers=headers,
                    body=message.body or b"",
                    most=self._most_back,
                )
        except TimeoutError:
            why = f"The response did not end within {self._timeout:g}s."
        except TooLargeError:
            why = f"The response is longer than {self._most_back} octets; ask the listener for it."
        except Exception:  # named boundary: the user's application; the edge has logged what it raised
            why = "The response broke off."
        else:
            return HttpResponse(message.request_id, status, _joined(back), body or None)
        logger.warning("502 for %s %s over a channel: %s", cut(message.method, 20), cut(message.uri), why)
        return _problem(message, 502, why)


def _split(uri: str) -> tuple[str, bytes]:
    """Path and query. Raises ValueError for what no request line can hold."""
    if not uri.startswith("/") or not uri.isascii() or any(char <= " " for char in uri):
        raise ValueError(uri)
    path, _, query = uri.partition("?")
    return path, query.encode()


def _headers(given: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Raises ValueError for what no header line can hold."""
    headers = []
    for name, value in given.items():
        folded = name.lower()
        if not folded.isascii() or not folded or any(char in folded for char in " \r\n\t:\0"):
            raise ValueError(name)
        if any(char in value for char in "\r\n\0"):
            raise ValueError(name)
        if folded not in _HOP_BY_HOP and folded != "content-length":
            headers.append((folded.encode(), value.encode("latin-1")))
    return headers


def _joined(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """An object has each name once: values are joined as RFC 9110, section 5.3, has it; Set-Cookie's with line feeds,
    which it cannot be joined with otherwise."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        if key in _HOP_BY_HOP:
            continue
        between = "\n" if key == "set-cookie" else ", "
        joined[key] = f"{joined[key]}{between}{text}" if key in joined else text
    return joined


def _problem(message: HttpRequest, status: int, detail: str) -> HttpResponse:
    body = problem_body(status, detail)
    return HttpResponse(message.request_id, status, _joined(problem_headers(body)), body)
