"""The server's side of PEP 3333 for one response: start_response, write and the iterable. It runs in the thread."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from pywatt_host.types import Environ, Headers, Message, WSGIApp
from pywatt_host.wsgi.exchange import WsgiExchange

if TYPE_CHECKING:
    from a2wsgi.wsgi_typing import ExceptionInfo, WriteCallable

log = logging.getLogger("pywatt.wsgi")

_MAX_JOINED_BYTES = 64 * 1024  # a list of chunks up to this size is sent as one; larger ones are not copied

_STATUS = re.compile(r"([2-5][0-9]{2})( [^\x00-\x08\x0a-\x1f\x7f]*)?\Z")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")  # RFC 9110 section 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Headers of the connection (RFC 9110 section 7.6.1), which only the server sets (PEP 3333, "Other HTTP Features").
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# RFC 9110 section 8.6 forbids Content-Length in a 204. A 304 may omit it, and servers check the length they announce.
_WITHOUT_BODY = frozenset((204, 304))


class Response:
    """Passes the response of the application to the exchange. Serves one request, in one thread.

    Defaults are attributes of the class, so that making a response costs as little as possible.
    """

    _head: Message | None = None  # stored until the first bytes of the body
    _started = False  # the head has been passed to the exchange
    _declared: int | None = None  # Content-Length
    _sent = 0
    _enough = False  # the response is complete

    def __init__(self, exchange: WsgiExchange, *, head_only: bool) -> None:
        self._exchange = exchange
        self._head_only = self._bodiless = head_only

    def run(self, app: WSGIApp, environ: Environ) -> None:
        """Call the application and pass its response on. An exception of the application is raised."""
        iterable = app(environ, self.start_response)
        try:
            if type(iterable) is list or type(iterable) is tuple:
                self._send_all(iterable)
            else:
                self._send_each(iterable)
        finally:
            close = getattr(iterable, "close", None)
            if close is not None:
                close()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExceptionInfo | None = None, /
    ) -> WriteCallable:
        if exc_info:
            try:
                if self._started:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: its traceback refers to this frame
        elif self._head is not None or self._started:
            raise AssertionError("start_response was called a second time without exc_info")
        code = _status_code(status)
        encoded, self._declared = _encode_headers(headers)
        if code in _WITHOUT_BODY:
            encoded = [(name, value) for name, value in encoded if name != b"content-length"]
        self._bodiless = self._head_only or code in _WITHOUT_BODY
        self._head = {"type": "http.response.start", "status": code, "headers": encoded}
        return self.write

    def write(self, chunk: bytes) -> None:
        """Send a piece of the body (PEP 3333). The first call sends the head, even if the piece is empty."""
        if not isinstance(chunk, bytes):
            raise TypeError(f"write() takes bytes, not {type(chunk).__name__}")
        if self._declared is not None and not self._bodiless and self._sent + len(chunk) > self._declared:
            raise AssertionError(f"write() exceeds the Content-Length of {self._declared}")
        self._put(chunk)

    def _send_all(self, chunks: list[bytes] | tuple[bytes, ...]) -> None:
        """Send a response that is complete, so that its length is known and it can be sent at once."""
        for chunk in chunks:
            if not isinstance(chunk, bytes):
                raise _not_bytes(chunk)
        single = len(chunks) == 1
        total = len(chunks[0]) if single else sum(map(len, chunks))
        if self._declared is not None:
            self._check_length(total)
        elif not self._started and (total or not self._head_only):
            self._declare(total)
        if self._started or (total > _MAX_JOINED_BYTES and not single):
            self._send_each(chunks)
        else:
            self._put(chunks[0] if single else b"".join(chunks), last=True)

    def _send_each(self, iterable: Iterable[bytes]) -> None:
        """Send each piece of the body when the application yields it."""
        exchange = self._exchange
        count = getattr(iterable, "__len__", None)
        single = count is not None and count() == 1
        for chunk in iterable:
            if exchange.closed:
                return
            if not isinstance(chunk, bytes):
                raise _not_bytes(chunk)
            if self._enough:
                # PEP 3333: stop when enough has been sent. Not earlier, so that the code after the last yield of a
                # correct generator runs.
                if chunk and not self._bodiless:
                    log.warning("the application sent more than its Content-Length; the rest was dropped")
                return
            if not chunk:
                exchange.watch()  # the application waits for something, perhaps for ever
                continue
            if single and not self._started:
                if self._declared is None:
                    self._declare(len(chunk))
                self._check_length(len(chunk))
            self._put(chunk)
        if not self._started:
            if self._declared is None and not self._head_only:
                self._declare(0)
            self._check_length()
            self._put(b"", last=True)
        self._check_length()
        if not self._enough:
            exchange.end()

    def _put(self, chunk: bytes, *, last: bool = False) -> None:
        """Pass a piece to the exchange, with the head if it was not passed yet. The piece that completes the
        Content-Length is the last one."""
        head, self._head = self._head, None
        if head is None and not self._started:
            raise AssertionError("start_response was not called before the first bytes of the body")
        self._started = True
        if self._bodiless:
            chunk = b""
            last = True
        elif self._declared is not None:
            left = self._declared - self._sent
            if len(chunk) > left:
                message = "the application sent more than its Content-Length of %d; the rest was dropped"
                log.warning(message, self._declared)
                chunk = chunk[:left]
            last = len(chunk) == left
        self._sent += len(chunk)
        if not self._enough:
            self._enough = last
            self._exchange.put(head, chunk, complete=last)

    def _declare(self, length: int) -> None:
        head = self._head
        if head is not None and head["status"] not in _WITHOUT_BODY:
            self._declared = length
            head["headers"].append((b"content-length", b"%d" % length))

    def _check_length(self, coming: int = 0) -> None:
        """Raise RuntimeError if the body ends before its Content-Length, after `coming` more bytes. Checked before the
        head has left where that is possible, so that the response can still become a 500."""
        sent = self._sent + coming
        if self._declared is not None and not self._bodiless and sent < self._declared:
            raise RuntimeError(f"the application sent {sent} of the {self._declared} bytes it declared")


def _not_bytes(chunk: object) -> TypeError:
    return TypeError(f"the application's iterable yields {type(chunk).__name__}, but PEP 3333 requires bytes")


@lru_cache(maxsize=256)
def _status_code(status: str) -> int:
    """Return the code of `200 OK` or `200`. Raises TypeError or ValueError if it is not a final status."""
    if not isinstance(status, str):
        raise TypeError(f"the status must be a str, not {type(status).__name__}")
    match = _STATUS.match(status)
    if match is None:
        raise ValueError(f"{status!r} is not a final HTTP status such as '200 OK'")
    return int(match[1])


@lru_cache(maxsize=512)
def _header_name(name: str) -> bytes | None:
    """Return the name in ASGI's form, or None for a header that is dropped. Raises TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"a header's name must be a str, not {type(name).__name__}")
    if not _TOKEN.match(name):
        raise ValueError(f"{name!r} is not a valid header name")
    lower = name.lower()
    return None if lower in _HOP_BY_HOP else lower.encode("ascii")


def _encode_headers(headers: list[tuple[str, str]]) -> tuple[Headers, int | None]:
    """Return the headers for ASGI, and their Content-Length if there is one."""
    encoded: Headers = []
    length = None
    for name, value in headers:
        raw_name = _header_name(name)
        if not isinstance(value, str):
            raise TypeError(f"the value of the header {name} must be a str, not {type(value).__name__}")
        if not value.isprintable() and _CONTROL.search(value):
            raise ValueError(f"the value of the header {name} contains a control character")
        if raw_name is None:
            continue
        stripped = value.strip(" \t")
        if raw_name == b"content-length":
            if not (stripped.isascii() and stripped.isdigit()):
                raise ValueError(f"{value!r} is not a valid Content-Length")
            if length is not None and length != int(stripped):
                raise ValueError(f"the application declares two lengths: {length} and {stripped}")
            if length is not None:
                continue
            length = int(stripped)
        encoded.append((raw_name, stripped.encode("latin-1")))
    return encoded, length
