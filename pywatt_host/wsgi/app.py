"""`WsgiApp`: an ASGI application that runs a WSGI application.

loop:    scope ── admission ── body ──┐                     ┌── send, send
thread:                               └── environ ── app ── ┘
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from io import BytesIO

from pywatt_host.types import Receive, Scope, Send, WSGIApp
from pywatt_host.wsgi.body import RequestBody
from pywatt_host.wsgi.environ import build_environ
from pywatt_host.wsgi.error_log import ErrorLog
from pywatt_host.wsgi.exchange import NeverRunError, Outbox, WsgiExchange
from pywatt_host.wsgi.received import NotStoredError, ReceivedBody, receive_body
from pywatt_host.wsgi.refusals import BUSY, NOT_STORED, refuse, refuse_websocket
from pywatt_host.wsgi.response import Response
from pywatt_host.wsgi.threads import Threads

log = logging.getLogger("pywatt.wsgi")

_WARN_INTERVAL = 1.0  # seconds between two warnings about the threads, and between two errors about bodies
_NOT_STORED_REASON = "the body could not be stored"
# One thread in so many may wait for a client that asked with `Expect: 100-continue` whether to send its body.
_THREADS_PER_ASKING = 4


class WsgiApp:
    """An ASGI 3 application for `http` and `websocket` scopes, which runs the WSGI application `app` in threads.

    At most `threads` requests run at a time, and at most `admission` requests run or wait; further requests get 503. An
    exception of the application is raised by the call. A WebSocket is refused before it is accepted. `name` is the key
    of the application in the manifest.

    A request gets a thread once its body has been received. A request with `Expect: 100-continue` and a Content-Length
    gets one before that, since the application may refuse the body: reading it makes the server ask the client for it.
    A quarter of the threads is available for that. Beyond it, the body is asked for at once.
    """

    def __init__(self, app: WSGIApp, *, threads: int = 16, admission: int = 1024, name: str = "app") -> None:
        self._app = app
        self._admission = admission
        self._key = f"{name}.threads"
        self._threads: Threads[WsgiExchange] = Threads(threads, name, self._exhausted)
        self._asking = 0  # requests whose application was called before their body was received
        self._most_asking = threads // _THREADS_PER_ASKING
        self._outbox: Outbox | None = None
        self._closed = False
        self._warn_lock = threading.Lock()
        self._last_warning = self._last_error = -_WARN_INTERVAL  # time.monotonic

    @property
    def running(self) -> int:
        """Number of threads in the application's code, including those whose request was abandoned."""
        return self._threads.running

    @property
    def waiting(self) -> int:
        """Number of admitted requests that no thread has taken yet."""
        return self._threads.waiting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] != "websocket":
                raise ValueError(f"a WSGI application does not support the scope type {scope['type']}")
            await receive()  # websocket.connect
            await refuse_websocket(scope, send)
            return
        if self._closed or self._threads.load() >= self._admission:
            await self._refuse(scope, send)
            return

        headers = dict(scope["headers"])
        chunked = b"transfer-encoding" in headers
        body = None
        # RFC 9112 section 6.3. HTTP/2 and HTTP/3 need not announce a body.
        if chunked or headers.get(b"content-length", b"0") != b"0" or not scope["http_version"].startswith("1"):
            declared = not chunked and b"content-length" in headers
            if declared and b"expect" in headers and self._asking < self._most_asking:
                self._asking += 1
                try:
                    await self._run(scope, receive, send, None, asking=True)
                finally:
                    self._asking -= 1
                return
            try:
                body = await receive_body(receive)
            except NotStoredError as error:
                self._log_not_stored(error)
                await refuse(scope, send, NOT_STORED, _NOT_STORED_REASON)
                return
            if body is None:
                return
            if self._closed or self._threads.load() >= self._admission:
                body.file.close()
                await self._refuse(scope, send)
                return
        await self._run(scope, receive, send, body)

    async def aclose(self, timeout: float) -> int:
        """Accept no more requests, refuse those that wait, and wait up to `timeout` seconds for those that run.

        Return how many still run. Nothing stops them, but their threads are daemons and do not delay the exit of the
        process.
        """
        self._closed = True
        for waiting in self._threads.close():
            waiting.refuse()
        return await self._threads.wait(timeout)

    async def _run(
        self, scope: Scope, receive: Receive, send: Send, body: ReceivedBody | None, *, asking: bool = False
    ) -> None:
        """Run the application in a thread. With `asking`, its body is received when it is read."""
        exchange = WsgiExchange(self._outbox_of_loop(), self._respond, scope, body)
        if asking:
            exchange.expect_upload()
        try:
            self._threads.submit(exchange)
        except RuntimeError:
            exchange.drop_body()
            raise
        try:
            await exchange.serve(receive, send)
        except NeverRunError:
            exchange.drop_body()
            await self._refuse(scope, send)
        except BaseException:
            if self._threads.withdraw(exchange):
                exchange.drop_body()
            raise

    def _respond(self, exchange: WsgiExchange) -> None:
        """Run the application. Called in a thread."""
        errors = ErrorLog()
        scope, body = exchange.scope, exchange.body
        if body is not None:
            environ = build_environ(scope, body.file, errors, body.length)
        elif exchange.upload is not None:
            environ = build_environ(scope, RequestBody(b"", False, exchange.upload.pull), errors)
        else:
            environ = build_environ(scope, BytesIO(), errors)
        response = Response(exchange, head_only=scope["method"] == "HEAD")
        try:
            exchange.context.run(response.run, self._app, environ)
        finally:
            if errors.unwritten:
                exchange.context.run(errors.flush)

    def _outbox_of_loop(self) -> Outbox:
        loop = asyncio.get_running_loop()
        if self._outbox is None or self._outbox.loop is not loop:
            self._outbox = Outbox(loop)
        return self._outbox

    async def _refuse(self, scope: Scope, send: Send) -> None:
        if not self._closed:
            self._warn("a request was refused with 503: %d requests run and %d wait, which is the maximum")
        await refuse(scope, send, BUSY, "stopping" if self._closed else self._key)

    def _exhausted(self) -> None:
        """All threads are busy, and a request waits. Called in the loop or in a thread."""
        self._warn("all threads are busy: %d requests run, and %d wait for a thread")

    def _warn(self, message: str) -> None:
        """Log a warning with the numbers of requests that run and wait, at most one in _WARN_INTERVAL."""
        now = time.monotonic()
        with self._warn_lock:
            if now - self._last_warning < _WARN_INTERVAL:
                return
            self._last_warning = now
        running, waiting = self.running, self.waiting
        fields = {"key": self._key, "running": running, "waiting": waiting}
        log.warning(f"{message}; %s sets how many run at a time", running, waiting, self._key, extra=fields)

    def _log_not_stored(self, error: NotStoredError) -> None:
        now = time.monotonic()
        if now - self._last_error >= _WARN_INTERVAL:
            self._last_error = now
            log.error("a request was refused with 507, since its body could not be stored: %s", error)
