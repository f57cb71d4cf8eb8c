"""A faster version of uvicorn's request cycle, which sends the response of one request.

The head and the first part of the body leave in one system call. The status, the length and the request id of a
response are handled here for the edge, so that it need not wrap `send`. Checks and errors are those of uvicorn.

This depends on internals of uvicorn. PYWATT_ONE_WRITE=off leaves everything to uvicorn; the same happens by itself with
a version of uvicorn that is not known.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
from importlib import import_module
from typing import Any

from pywatt_host.http.exchange import HttpExchange
from pywatt_host.types import Message

logger = logging.getLogger("pywatt.server")

CYCLE = "pywatt.cycle"  # where a scope carries its cycle to the edge, which removes it

_JOIN_LIMIT = 64 * 1024  # bytes: a body up to this length is joined with its head, a longer one is sent beside it
_CHUNKED = b"transfer-encoding: chunked\r\n"
_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REMEMBERED_NAMES = 1000  # header names that are known to be valid

# The internals of uvicorn that this version depends on; with any others, uvicorn's own cycle is used.
_PARAMETERS = {
    "self", "scope", "transport", "flow", "logger", "access_logger", "access_log", "default_headers", "message_event",
    "expect_100_continue", "keep_alive", "on_response",
}  # fmt: skip
_USED_BY_SEND = {
    "flow", "write_paused", "drain", "disconnected", "response_started", "waiting_for_100_continue", "default_headers",
    "chunked_encoding", "expected_content_length", "keep_alive", "scope", "transport", "response_complete",
    "message_event", "on_response",
}  # fmt: skip
_USED_BY_PROTOCOL = {
    "parser", "scope", "cycle", "app", "pipeline", "flow", "url", "root_path", "tasks", "limit_concurrency",
    "expect_100_continue", "server_state", "transport", "_start_asgi_task", "pause_reading", "appendleft",
}  # fmt: skip


def lean_cycle(protocol: type[Any]) -> type[Any] | None:
    """The class to use in place of uvicorn's cycle; None where `protocol` and its cycle are not known."""
    try:
        module = import_module(protocol.__module__)
        cycle, status_lines = module.RequestResponseCycle, module.STATUS_LINE
        known = (
            set(inspect.signature(cycle.__init__).parameters) == _PARAMETERS
            and set(cycle.send.__code__.co_names) >= _USED_BY_SEND
            and set(protocol.on_headers_complete.__code__.co_names) >= _USED_BY_PROTOCOL
            and isinstance(status_lines[200], bytes)
        )
    except (ImportError, AttributeError, KeyError, TypeError):
        known = False
    if not known:
        logger.info("this version of uvicorn is not known: the head and the body of a response are sent separately")
        return None
    return _derived(cycle, status_lines)


class Signal:
    """The part of asyncio.Event that uvicorn uses."""

    __slots__ = ("_set", "_waiters")

    def __init__(self) -> None:
        self._set = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._set = True
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> bool:
        if not self._set:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if self._waiters is not None and waiter in self._waiters:
                    self._waiters.remove(waiter)  # an application that polls for a disconnect cancels many times
                raise
        return True


def _derived(base: type[Any], status_lines: dict[int, bytes]) -> type[Any]:
    good_names: set[bytes] = set()

    class LeanCycle(base):  # type: ignore[misc]
        # The values of uvicorn's __init__. They are on the class, since most requests do not change them.
        logger = logging.getLogger("uvicorn.error")
        access_logger = logging.getLogger("uvicorn.access")
        access_log = False
        disconnected = False
        waiting_for_100_continue = False
        body: bytes | bytearray = b""
        more_body = True
        response_started = False
        response_complete = False
        chunked_encoding: bool | None = None
        expected_content_length = 0

        head: bytes | None = None  # waits for the first part of the body
        exchange: HttpExchange | None = None  # of the edge, where it sees the response here
        plain = False  # the path has one reading only

        def __init__(
            self, scope: Any, transport: Any, flow: Any, default_headers: Any, keep_alive: bool, on_response: Any
        ) -> None:
            self.scope = scope
            self.transport = transport
            self.flow = flow
            self.default_headers = default_headers
            self.keep_alive = keep_alive
            self.on_response = on_response
            self.message_event = Signal()

        async def send(self, message: Message) -> None:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            exchange = self.exchange
            if exchange is not None and exchange.taken:
                return
            if self.disconnected:
                if exchange is not None:
                    exchange.sent_after_disconnect(message)
            elif not self.response_started:
                if exchange is not None and exchange.unavailable and message.get("status") == 500:
                    await exchange.answer_unavailable()
                else:
                    self._start(message, exchange)
            elif not self.response_complete:
                self._continue(message, exchange)
            else:
                raise RuntimeError(
                    f"Unexpected ASGI message '{message['type']}' sent, after response already completed."
                )

        def _start(self, message: Message, exchange: HttpExchange | None) -> None:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{message['type']}'.")
            self.response_started = True
            self.waiting_for_100_continue = False
            status, added = message["status"], 2  # the status line and the empty line
            lines = [status_lines[status]]
            for name, value in self.default_headers:
                lines += (name, b": ", value, b"\r\n")
                added += 1
            if exchange is not None:
                exchange.status = status
                if exchange.deadline is not None:
                    exchange.deadline.reschedule(None)
                lines += (b"x-request-id: ", exchange.request_id, b"\r\n")
                added += 1
            closes = False
            for name, value in message.get("headers", ()):
                if name not in good_names:
                    name = _checked(name, good_names)
                if name == b"content-length" and self.chunked_encoding is None:
                    self.expected_content_length = int(value)
                    self.chunked_encoding = False
                elif name == b"transfer-encoding" and value.lower() == b"chunked":
                    self.expected_content_length = 0
                    self.chunked_encoding = True
                elif name == b"connection" and b"close" in [token.lower().strip() for token in value.split(b",")]:
                    self.keep_alive = False
                    closes = True
                elif name == b"x-request-id" and exchange is not None:
                    continue
                lines += (name, b": ", value, b"\r\n")
                added += 1
            if not self.keep_alive and not closes:
                lines.append(b"connection: close\r\n")
                added += 1
            if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
                self.chunked_encoding = True
                lines.append(_CHUNKED)
                added += 1
            lines.append(b"\r\n")
            head = b"".join(lines)
            # A header value has a line end or a control character.
            if head.count(b"\n") != added or head.count(b"\r") != added or _BAD_HEAD.search(head) is not None:
                raise RuntimeError("Invalid HTTP header value.")
            if self.chunked_encoding:  # the first part of the body may come much later
                self.transport.write(head)
            else:
                self.head = head

        def _continue(self, message: Message, exchange: HttpExchange | None) -> None:
            if message["type"] != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{message['type']}'.")
            body, more_body = message.get("body", b""), message.get("more_body", False)
            if exchange is not None:
                exchange.body_bytes += len(body)
            if self.scope["method"] == "HEAD":
                self.expected_content_length = 0
                body = b""
            elif self.chunked_encoding:
                body = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                if not more_body:
                    body += b"0\r\n\r\n"
            else:
                if len(body) > self.expected_content_length:
                    raise RuntimeError("Response content longer than Content-Length")
                self.expected_content_length -= len(body)
            self._write(body)
            if not more_body:
                if self.expected_content_length != 0:
                    raise RuntimeError("Response content shorter than Content-Length")
                self.response_complete = True
                self.message_event.set()
                if exchange is not None:
                    exchange.finish()
                if not self.keep_alive:
                    self.transport.close()
                self.on_response()

        def _write(self, body: bytes) -> None:
            head, self.head = self.head, None
            if head is None:
                if body:
                    self.transport.write(body)
            elif len(body) <= _JOIN_LIMIT:
                self.transport.write(head + body)
            else:
                self.transport.writelines((head, body))

    return LeanCycle


def _checked(name: bytes, good_names: set[bytes]) -> bytes:
    """The name of a header in lower case. Raises RuntimeError where it is invalid; valid names are remembered."""
    if _BAD_NAME.search(name) is not None:
        raise RuntimeError("Invalid HTTP header name.")
    lowered = name.lower()
    if lowered == name and len(good_names) < _REMEMBERED_NAMES:
        good_names.add(name)
    return lowered
