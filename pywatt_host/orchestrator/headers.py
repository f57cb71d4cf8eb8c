"""Which headers of requests and responses go through the gateway."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pywatt_host.http.forwarding import is_forgeable
from pywatt_host.types import Headers, Scope

# RFC 9110, section 7.6.1: these belong to one connection. `expect` is answered by the server that takes the body.
_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"expect",
    )
)  # fmt: skip
# RFC 9110, section 7.2: a name or an address, and perhaps a port. An application that makes a URL of anything else may
# read it as a user, a path or a query.
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch
BODILESS = frozenset({204, 304})


def names_one_host(headers: Headers) -> bool:
    """Whether there is at most one `Host`, and it is valid (RFC 9112, section 3.2)."""
    hosts = [value for name, value in headers if name == b"host"]
    return len(hosts) < 2 and all(_HOST(host) is not None for host in hosts)


def end_to_end(headers: Headers) -> Headers:
    """The headers without those of the connection, and without those that `Connection` names."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def says_close(headers: Headers) -> bool:
    """Whether the sender of these headers ends its connection."""
    return any(
        name.lower() == b"connection" and b"close" in [token.strip().lower() for token in value.split(b",")]
        for name, value in headers
    )


def request_headers(scope: Scope, prefix: str) -> Headers:
    """The headers that a module gets: `Host` as the client sent it, and only our own forwarding headers."""
    given: Headers = scope["headers"]
    host = next((value for name, value in given if name == b"host"), b"localhost")
    kept = [(name, value) for name, value in end_to_end(given) if name != b"host" and not is_forgeable(name)]
    client = scope.get("client")
    scheme = {"ws": b"http", "wss": b"https"}.get(scope["scheme"], scope["scheme"].encode())
    kept += [(b"x-forwarded-for", client[0].encode())] if client else []
    kept += [(b"x-forwarded-proto", scheme), (b"x-forwarded-host", host)]
    kept += [(b"x-forwarded-prefix", prefix.encode())] if prefix else []
    return [(b"host", host), *kept]


def framed(headers: Headers, scope: Scope) -> tuple[Headers, bool]:
    """The headers with the body's framing as the client sent it, and whether there is a body."""
    names = {name: value for name, value in scope["headers"] if name in (b"transfer-encoding", b"content-length")}
    headers = [header for header in headers if header[0] != b"content-length"]
    if b"transfer-encoding" in names:
        return [*headers, (b"transfer-encoding", b"chunked")], True
    if b"content-length" in names:  # also where `Connection` names it
        return [*headers, (b"content-length", names[b"content-length"])], names[b"content-length"] != b"0"
    return headers, False


def response_headers(status: int, headers: Headers) -> Headers:
    """The headers that the client gets. The server adds `Date`, and a framing where there is no length. The length is
    left out with a transfer coding (RFC 9112, section 6.3), and where no body follows."""
    dropped = {b"date"}
    if status in BODILESS or any(name.lower() == b"transfer-encoding" for name, _ in headers):
        dropped.add(b"content-length")
    return [(name, value) for name, value in end_to_end(headers) if name.lower() not in dropped]


def of_message(headers: Mapping[str, str]) -> Headers:
    """The headers of an `http_response`, where Set-Cookie may hold several, one a line. Invalid ones are dropped."""
    found: Headers = []
    for name, joined in headers.items():
        folded = name.lower()
        if not folded.isascii() or not folded or any(char <= " " or char in ':"(),/' for char in folded):
            continue
        for value in joined.split("\n") if folded == "set-cookie" else [joined]:
            if not any(char in value for char in "\r\n\0"):
                found.append((folded.encode(), value.encode("latin-1", "replace")))
    return [header for header in response_headers(200, found) if header[0] != b"content-length"]


def as_message(headers: Headers) -> dict[str, str]:
    """The headers of an `http_request`: each name once, with its values joined (RFC 9110, section 5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        between = "; " if key == "cookie" else ", "
        joined[key] = f"{joined[key]}{between}{text}" if key in joined else text
    return joined
