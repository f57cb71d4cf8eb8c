"""`WsgiApp`: a WSGI application behind the face of an ASGI one.

loop:    scope ── admission ── first octets ──┐                     ┌── send, send
thread:                                       └── environ ── app ── ┘
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
from pywatt_host.wsgi.environ import ErrorLog, build_environ
from pywatt_host.wsgi.exchange import NeverRunError, Outbox, WsgiExchange
from pywatt_host.wsgi.response import Response
from pywatt_host.wsgi.threads import Threads

log = logging.getLogger("pywatt.wsgi")

_REFUSAL = json.dumps(
    {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "The application is too busy to take the request, or is stopping.",
    }
).encode()


class WsgiApp:
    """An ASGI 3 application, for `http` and `websocket` scopes, which runs `app` in threads of its own.

    At most `threads` requests run at a time and `admission` are in, running and waiting together; what comes on top is
    answered 503. What the application raises is raised by the call. A WebSocket is refused before it is accepted.
    """

    def __init__(self, app: WSGIApp, *, threads: int = 16, admission: int = 1024, name: str = "app") -> None:
        self._app = app
        self._admission = admission
        self._threads: Threads[WsgiExchange] = Threads(threads, name)
        self._outbox: Outbox | None = None
        self._closed = False
        self._warned = -1.0

    @property
    def running(self) -> int:
        """Threads in the application's code, those included whose request was given up."""
        return self._threads.running

    @property
    def waiting(self) -> int:
        """Admitted requests that no thread has taken yet."""
        return self._threads.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise ValueError(f"a WSGI application knows nothing of the scope type {scope['type']}")
        if self._full():
            await self._refuse(scope, send)
            return

        first, uploaded = b"", not _has_body(scope)
        if not uploaded and not _expects_continue(scope):
            # Taken here it is no hop, and most bodies are whole in their first message. But asking for it is what makes
            # a server send 100 Continue, and that is for the application to bring about, by reading.
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
        """Take no more work, refuse what waits, and give the running threads `timeout` seconds to get done.

        Returns how many still run. They are left to themselves; being daemons they do not hold the process at its exit.
        """
        self._closed = True
        for waiting in self._threads.close():
            waiting.refuse()
        return await self._threads.wait(timeout)

    def _respond(self, context: Context, scope: Scope, first: bytes, uploaded: bool, exchange: WsgiExchange) -> None:
        """In the thread."""
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
        if not self._closed and now - self._warned >= 1.0:
            self._warned = now
            log.warning(
                "refused with 503: %d requests run and %d wait, which is all that is admitted; "
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
    """Whether a body may follow (RFC 9112 section 6.3); HTTP/2 and 3 need not announce one."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return True
        if name == b"content-length":
            return bool(value != b"0")
    return not scope["http_version"].startswith("1")


def _expects_continue(scope: Scope) -> bool:
    return any(name == b"expect" for name, _ in scope["headers"])
