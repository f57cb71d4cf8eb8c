"""`WsgiApp`: an ASGI application that runs a WSGI application.

loop:    scope ── admission ── first bytes ──┐                     ┌── send, send
thread:                                      └── environ ── app ── ┘
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextvars import Context, copy_context
from functools import partial

from pywatt_host.types import Receive, Scope, Send, WSGIApp
from pywatt_host.wsgi.body import RequestBody
from pywatt_host.wsgi.environ import build_environ
from pywatt_host.wsgi.error_log import ErrorLog
from pywatt_host.wsgi.exchange import NeverRunError, Outbox, WsgiExchange
from pywatt_host.wsgi.response import Response
from pywatt_host.wsgi.threads import Threads

log = logging.getLogger("pywatt.wsgi")

_WARN_INTERVAL = 1.0  # seconds between two warnings about refused requests
_REFUSAL = json.dumps(
    {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The application is too busy to accept the request, or is stopping.",
    }
).encode()


class WsgiApp:
    """An ASGI 3 application for `http` and `websocket` scopes, which runs the WSGI application `app` in threads.

    At most `threads` requests run at a time, and at most `admission` requests run or wait; further requests get 503. An
    exception of the application is raised by the call. A WebSocket is refused before it is accepted.
    """

    def __init__(self, app: WSGIApp, *, threads: int = 16, admission: int = 1024, name: str = "app") -> None:
        self._app = app
        self._admission = admission
        self._threads: Threads[WsgiExchange] = Threads(threads, name)
        self._outbox: Outbox | None = None
        self._closed = False
        self._last_warning = -_WARN_INTERVAL  # time.monotonic

    @property
    def running(self) -> int:
        """Number of threads in the application's code, including those whose request was abandoned."""
        return self._threads.running

    @property
    def waiting(self) -> int:
        """Number of admitted requests that no thread has taken yet."""
        return self._threads.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise ValueError(f"a WSGI application does not support the scope type {scope['type']}")
        if self._full():
            await self._refuse(scope, send)
            return

        first, uploaded = b"", not _has_body(scope)
        if not uploaded and not _expects_continue(scope):
            # Receiving the body here saves a change of threads, and most bodies are complete in their first message.
            # But receiving also makes a server send 100 Continue, which only the application may cause, by reading.
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            first, uploaded = message.get("body", b""), not message.get("more_body", False)
            if self._full():
                await self._refuse(scope, send)
                return

        work = partial(self._respond, copy_context(), scope, first, uploaded)
        exchange = WsgiExchange(self._outbox_of_loop(), work, uploaded=uploaded)
        self._threads.submit(exchange)
        try:
            await exchange.serve(receive, send)
        except NeverRunError:
            await self._refuse(scope, send)
        except BaseException:
            self._threads.withdraw(exchange)
            raise

    async def aclose(self, timeout: float) -> int:
        """Accept no more requests, refuse those that wait, and wait up to `timeout` seconds for those that run.

        Return how many still run. Nothing stops them, but their threads are daemons and do not delay the exit of the
        process.
        """
        self._closed = True
        for waiting in self._threads.close():
            waiting.refuse()
        return await self._threads.wait(timeout)

    def _respond(self, context: Context, scope: Scope, first: bytes, uploaded: bool, exchange: WsgiExchange) -> None:
        """Run the application. Called in a thread."""
        errors = ErrorLog()
        environ = build_environ(scope, RequestBody(first, uploaded, exchange.pull), errors)
        response = Response(exchange, head_only=scope["method"] == "HEAD")
        try:
            context.run(response.run, self._app, environ)
        finally:
            context.run(errors.flush)

    def _outbox_of_loop(self) -> Outbox:
        loop = asyncio.get_running_loop()
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = Outbox(loop)
        return self._outbox

    def _full(self) -> bool:
        return self._closed or self._threads.load() >= self._admission

    async def _refuse(self, scope: Scope, send: Send) -> None:
        now = time.monotonic()
        if not self._closed and now - self._last_warning >= _WARN_INTERVAL:
            self._last_warning = now
            log.warning(
                "request refused with 503: %d requests run and %d wait, which is the maximum; "
                "app.threads sets how many run at a time",
                self.running,
                self.waiting,
            )
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(_REFUSAL)),
            (b"retry-after", b"1"),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _REFUSAL})


def _has_body(scope: Scope) -> bool:
    """Whether the request may have a body (RFC 9112 section 6.3). HTTP/2 and HTTP/3 need not announce one."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return True
        if name == b"content-length":
            return bool(value != b"0")
    return not scope["http_version"].startswith("1")


def _expects_continue(scope: Scope) -> bool:
    return any(name == b"expect" for name, _ in scope["headers"])
