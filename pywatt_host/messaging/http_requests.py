"""HTTP requests that arrive over a channel. They go through the edge and the application, with one message each way."""

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

_FRAME_SHARE = 4  # a body may take a quarter of a frame: each byte is a number of about 3.6 characters there
_FRAME_RESERVE = 64 * 1024  # bytes of a frame for everything but the body
_TIMEOUT = 60.0  # seconds for a whole response where server.timeouts.request is off

# RFC 9110, section 7.6.1: these headers belong to one connection and are not forwarded.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


class ChannelRequests:
    """Answers requests while it runs. Leaving waits for the requests that are being answered.

    `body` is the limit of `server.limits.body` and `frame` that of `channels.limits.frame`, in bytes; `timeout` is in
    seconds.
    """

    name = "requests over channels"

    def __init__(
        self, app: Callable[[], ASGIApp | None], *, body: int | None, frame: int, timeout: float | None
    ) -> None:
        share = max(0, frame // _FRAME_SHARE - _FRAME_RESERVE)
        self._max_body = share if body is None else min(body, share)
        self._max_response = share
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
        """The response of the application, or a problem (RFC 9457) of status 400, 413, 502 or 503."""
        app = self._app()
        if app is None or not self._open:
            return _problem(message, 503, "The module is not serving.")
        if len(message.body or b"") > self._max_body:
            return _problem(message, 413, f"The body is longer than {self._max_body} bytes.")
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
                    most=self._max_response,
                )
        except TimeoutError:
            why = f"The response did not end within {self._timeout:g}s."
        except TooLargeError:
            why = f"The response is longer than {self._max_response} bytes; request it from the HTTP listener instead."
        except Exception:  # named boundary: the user's application; the edge has logged what it raised
            why = "The response broke off."
        else:
            return HttpResponse(message.request_id, status, _joined(back), body or None)
        logger.warning("502 for %s %s over a channel: %s", cut(message.method, 20), cut(message.uri), why)
        return _problem(message, 502, why)


def _split(uri: str) -> tuple[str, bytes]:
    """Path and query. Raises ValueError for a URI that a request line cannot hold."""
    if not uri.startswith("/") or not uri.isascii() or any(char <= " " for char in uri):
        raise ValueError(uri)
    path, _, query = uri.partition("?")
    return path, query.encode()


def _headers(given: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The headers for the application. Raises ValueError for a name or value that a header line cannot hold."""
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
    """The headers as an object, which has each name once. Several values of a name are joined with commas (RFC 9110,
    section 5.3). Those of Set-Cookie cannot be joined so: they are joined with line feeds."""
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
