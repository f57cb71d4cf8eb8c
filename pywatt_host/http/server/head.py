"""The head of a request: its target, its Host, its framing, and the names of its fields.

What is the same in most requests is looked up in tables. The tables are bounded, and are emptied when they are full.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

CHUNKED: Final = -1  # the length of a body whose head does not say it

_REMEMBERED: Final = 4096  # entries of each table
_LONGEST_REMEMBERED: Final = 256  # bytes of a name, a target or a host that is remembered

# What a field means to the connection or to the edge. PLAIN fields mean nothing to either.
PLAIN, DROPPED, HOST, LENGTH, CODING, CONNECTION, UPGRADE, EXPECT, REQUEST_ID, TRACEPARENT, FORWARDING = range(11)
WEBSOCKET, RANGE, TRACESTATE = 11, 12, 13

_KINDS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"expect": EXPECT,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    b"sec-websocket-key": WEBSOCKET,
    b"sec-websocket-version": WEBSOCKET,
    b"range": RANGE,
}


class RefusedError(Exception):
    """A request that the connection refuses by its head or its framing. `reason` is for the log."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class FieldNames(dict[bytes, tuple[bytes, int]]):
    """Maps the name of a field, as it was sent, to its name in lower case and its kind.

    Names with an underscore are DROPPED: gateways between servers and applications (CGI, WSGI) cannot tell them from
    names with a hyphen, so that they could stand in for a field that a proxy or the edge has removed.
    """

    def __init__(self, forwarding: frozenset[bytes]) -> None:
        """`forwarding` are the names of fields that the edge removes or uses; so is each name `x-forwarded-*`."""
        super().__init__()
        self._forwarding = forwarding

    def __missing__(self, name: bytes) -> tuple[bytes, int]:
        lowered = name.lower()
        if b"_" in lowered:
            kind = DROPPED
        elif lowered in self._forwarding or lowered.startswith(b"x-forwarded-"):
            kind = FORWARDING
        else:
            kind = _KINDS.get(lowered, PLAIN)
        if len(name) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[name] = (lowered, kind)
        return lowered, kind


class Target(NamedTuple):
    """A request target. `plain` says that its path has one reading only. `authority` is that of an absolute target."""

    path: str
    raw_path: bytes
    query: bytes
    plain: bool
    authority: bytes | None = None


# A target with a path of characters without a special meaning, and an optional query.
_PLAIN_TARGET = re.compile(
    rb"((?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*)*/?)(?:\?([!-\"$-~]*))?"
).fullmatch
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]+)([^#]*)").fullmatch


class Targets(dict[bytes, Target]):
    """Maps request targets to what they mean (RFC 9112 section 3.2). Raises RefusedError for one that means nothing."""

    def __missing__(self, target: bytes) -> Target:
        made = _read_target(target)
        if len(target) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self[target] = made
        return made


def _read_target(target: bytes) -> Target:
    match = _PLAIN_TARGET(target)
    if match is not None and match[1]:
        return Target(match[1].decode("ascii"), match[1], match[2] or b"", True)
    if b"#" in target or not target.isascii():
        raise RefusedError(400, "a request target with a character that is not allowed")
    authority: bytes | None = None
    if not target.startswith(b"/") and target != b"*":
        absolute = _ABSOLUTE(target)
        if absolute is None:
            raise RefusedError(400, "a request target that is no path and no http or https address")
        authority = absolute[1]
        if not is_host(authority):
            raise RefusedError(400, "an absolute request target without a valid host")
        target = absolute[2]
        if not target.startswith(b"/"):
            target = b"/" + target
    raw_path, _, query = target.partition(b"?")
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace") if b"%" in raw_path else raw_path.decode("ascii")
    match = _PLAIN_TARGET(target)
    return Target(path, raw_path, query, match is not None and bool(match[1]), authority)


# RFC 3986 section 3.2: a name or an IPv4 address, or an IPv6 address in brackets; then an optional port.
is_host = re.compile(
    rb"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
).fullmatch


class Hosts(set[bytes]):
    """Values of Host that are valid (RFC 9110 section 7.2)."""

    def valid(self, value: bytes) -> bool:
        """Whether a value that is not in the set is valid. It is added if it is."""
        if is_host(value) is None:
            return False
        if len(value) <= _LONGEST_REMEMBERED:
            if len(self) >= _REMEMBERED:
                self.clear()
            self.add(value)
        return True


def check_coding(value: bytes, version: str) -> None:
    """Raise RefusedError unless a Transfer-Encoding is `chunked` alone (RFC 9112 sections 6.1 and 7)."""
    if version != "1.1":
        raise RefusedError(400, "Transfer-Encoding in a request of HTTP/1.0")
    codings = [coding.strip().lower() for coding in value.split(b",") if coding.strip()]
    if codings == [b"chunked"]:
        return
    if not codings or codings[-1] != b"chunked" or b"chunked" in codings[:-1]:
        raise RefusedError(400, "a Transfer-Encoding that does not end in one `chunked`")
    raise RefusedError(501, "a Transfer-Encoding other than `chunked`")


def is_websocket_key(value: bytes) -> bool:
    """Whether a Sec-WebSocket-Key is 16 bytes in base64 (RFC 6455 section 4.2.1)."""
    try:
        return len(base64.b64decode(value.strip(), validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def is_byte_range(value: bytes) -> bool:
    """Whether a Range is in bytes, the one unit that every server understands (RFC 9110 section 14.1)."""
    unit, equals, _ = value.partition(b"=")
    return bool(equals) and unit.strip().lower() == b"bytes"


def tokens(value: bytes) -> list[bytes]:
    """The elements of a list of tokens, in lower case (RFC 9110 section 5.6.1)."""
    return [token for token in (part.strip().lower() for part in value.split(b",")) if token]
