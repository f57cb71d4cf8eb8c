"""One system call per response: uvicorn's request cycle with the head and the first of the body written together.

It is uvicorn's `RequestResponseCycle.send` said again for that, with the same checks and the same errors; nothing else
of the cycle is touched. PYWATT_ONE_WRITE=off leaves uvicorn's own; so does a uvicorn whose cycle has another shape.
"""

from __future__ import annotations

import logging
import re
from importlib import import_module
from typing import Any

from pywatt_host.types import Message

logger = logging.getLogger("pywatt.server")

_COPIED_UP_TO = 64 * 1024  # octets: a body up to here is joined to its head, a longer one leaves beside it
_BAD_NAME = re.compile(rb'[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\"]')
_BAD_HEAD = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REMEMBERED_NAMES = 1000

# What the original reads and sets. A uvicorn whose `send` works with other names is left alone.
_SHAPE = {
    "flow", "write_paused", "drain", "disconnected", "response_started", "waiting_for_100_continue", "default_headers",
    "chunked_encoding", "expected_content_length", "keep_alive", "scope", "transport", "response_complete",
    "message_event", "on_response",
}  # fmt: skip


def one_write_cycle() -> type[Any] | None:
    """The class to put in the place of uvicorn's cycle; None where that is unknown."""
    try:
        module = import_module("uvicorn.protocols.http.httptools_impl")
        cycle, status_lines = module.RequestResponseCycle, module.STATUS_LINE
        known = set(cycle.send.__code__.co_names) >= _SHAPE and isinstance(status_lines[200], bytes)
    except (ImportError, AttributeError, KeyError, TypeError):
        known = False
    if not known:
        logger.info("this uvicorn is unknown: a response's head and body leave separately")
        return None
    return _derived(cycle, status_lines)


def _derived(base: type[Any], status_lines: dict[int, bytes]) -> type[Any]:
    good_names: set[bytes] = set()

    class OneWriteCycle(base):  # type: ignore[misc]
        head: bytes | None = None  # waits for the first of the body
        chunked_encoding: bool | None
        response_complete: bool

        async def send(self, message: Message) -> None:
            if self.flow.write_paused and not self.disconnected:
                await self.flow.drain()
            if self.disconnected:
                return
            if not self.response_started:
                self._start(message)
            elif not self.response_complete:
                self._continue(message)
            else:
                raise RuntimeError(
                    f"Unexpected ASGI message '{message['type']}' sent, after response already completed."
                )

        def _start(self, message: Message) -> None:
            if message["type"] != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{message['type']}'.")
            self.response_started = True
            self.waiting_for_100_continue = False
            status, closes = message["status"], False
            lines = [status_lines[status]]
            headers = self.default_headers + list(message.get("headers", []))
            for name, value in headers:
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
                lines += (name, b": ", value, b"\r\n")
            if not self.keep_alive and not closes:
                lines.append(b"connection: close\r\n")
            if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in (204, 304):
                self.chunked_encoding = True
                lines.append(b"transfer-encoding: chunked\r\n")
            lines.append(b"\r\n")
            head = b"".join(lines)
            # A line end or control character that a value brought along; the added lines come in threes above.
            ends = len(headers) + 2 + (not self.keep_alive and not closes) + (lines[-2] == _CHUNKED)
            if head.count(b"\n") != ends or head.count(b"\r") != ends or _BAD_HEAD.search(head):
                raise RuntimeError("Invalid HTTP header value.")
            if self.chunked_encoding:  # nobody knows when the first of the body comes
                self.transport.write(head)
            else:
                self.head = head

        def _continue(self, message: Message) -> None:
            if message["type"] != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{message['type']}'.")
            body, more_body = message.get("body", b""), message.get("more_body", False)
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
            if not more_body and self.expected_content_length != 0:
                self._write(body)
                raise RuntimeError("Response content shorter than Content-Length")
            self._write(body)
            if not more_body:
                self.response_complete = True
                self.message_event.set()
                if not self.keep_alive:
                    self.transport.close()
                self.on_response()

        def _write(self, body: bytes) -> None:
            head, self.head = self.head, None
            if head is None:
                if body:
                    self.transport.write(body)
            elif len(body) <= _COPIED_UP_TO:
                self.transport.write(head + body)
            else:
                self.transport.writelines((head, body))

    return OneWriteCycle


_CHUNKED = b"transfer-encoding: chunked\r\n"


def _checked(name: bytes, good_names: set[bytes]) -> bytes:
    """A header's name in lower case. Good ones that are so already are remembered."""
    if _BAD_NAME.search(name):
        raise RuntimeError("Invalid HTTP header name.")
    lowered = name.lower()
    if lowered == name and len(good_names) < _REMEMBERED_NAMES:
        good_names.add(name)
    return lowered
