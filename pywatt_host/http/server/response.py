"""The head of a response. Each field is checked once; after that it is remembered as the line that is sent."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from pywatt_host.http.problem import title

_REMEMBERED: Final = 2048  # lines
_LONGEST_REMEMBERED: Final = 256  # bytes of a line

_BAD_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")  # not a token (RFC 9110 section 5.6.2)
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ENDLESS = (b"text/event-stream", b"multipart/x-mixed-replace")


class ResponseError(RuntimeError):
    """The application's response cannot be sent as it is."""


class Kind(IntEnum):
    """What a field means for the framing of the response."""

    PLAIN = 0
    LENGTH = 1
    DROPPED = 2  # the connection decides about these
    CLOSES = 3
    ENDLESS = 5  # the content type of a stream without an end
    REQUEST_ID = 6
    ADDED = 7  # takes the place of a field that every response has, such as Date


class Line(NamedTuple):
    """A field as it is sent, with its line end. `number` is that of a Content-Length; of a field that takes the place
    of one in the status line (`StatusLines`), it is the bit of that."""

    text: bytes
    kind: Kind
    number: int = 0


class HeaderLines(dict[tuple[bytes, bytes], Line]):
    """Maps fields of responses to their lines. Raises ResponseError for a field that must not be sent.

    `added` are names of fields that every response has: those of the application take their place.
    """

    def __init__(self, added: Sequence[bytes] = ()) -> None:
        super().__init__()
        self._bits = bits_of(added)

    def __missing__(self, header: tuple[bytes, bytes]) -> Line:
        line = _line(*header)
        bit = self._bits.get(header[0].lower(), 0)
        if bit:
            line = line._replace(kind=Kind.ADDED, number=bit)
        if len(line.text) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[header] = line
        return line


def bits_of(added: Iterable[bytes]) -> dict[bytes, int]:
    """A bit for each field that every response has: Date, and those that are added."""
    return {name: 1 << number for number, name in enumerate((b"date", *added))}


def _line(name: bytes, value: bytes) -> Line:
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise ResponseError(f"the name and the value of a header must be bytes: {name!r}")
    if not name or _BAD_NAME.search(name) is not None:
        raise ResponseError(f"invalid HTTP header name: {name!r}")
    if _BAD_VALUE.search(value) is not None:
        raise ResponseError(f"invalid HTTP header value: {name.decode()} has a line end or a control character")
    name, kind, length = name.lower(), Kind.PLAIN, 0
    if name == b"content-length":
        text = value.strip()
        if not text.isdigit() or len(text) > 19:
            raise ResponseError(f"invalid Content-Length: {value!r}")
        kind, length, value = Kind.LENGTH, int(text), text
    elif name in (b"transfer-encoding", b"keep-alive"):
        kind = Kind.DROPPED
    elif name == b"connection":
        kind = Kind.CLOSES if b"close" in [token.strip().lower() for token in value.split(b",")] else Kind.DROPPED
    elif name == b"x-request-id":
        kind = Kind.REQUEST_ID
    elif name == b"content-type" and value.lower().startswith(_ENDLESS):
        kind = Kind.ENDLESS
    return Line(b"%b: %b\r\n" % (name, value), kind, length)


def _status_line(status: int) -> bytes:
    try:
        phrase = title(status)
    except ValueError:
        phrase = ""  # RFC 9112 section 4: the space before it is not optional
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES: Final = {status: _status_line(status) for status in range(200, 1000)}
BODILESS: Final = frozenset((204, 304))  # statuses of responses that have no body (RFC 9112 section 6.3)
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
