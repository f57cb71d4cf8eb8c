"""What of a request's and a response's head goes through the gateway."""

from __future__ import annotations

from collections.abc import Mapping

from pywatt_host.http.forwarding import is_forgeable
from pywatt_host.types import Headers, Scope

# RFC 9110, section 7.6.1: these are a connection's own; `expect` is answered by whoever takes the body.
_HOP_BY_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"transfer-encoding", b"upgrade", b"expect",
    )
)  # fmt: skip


def end_to_end(headers: Headers) -> Headers:
    """Without those of the connection, and those that `Connection` names."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def request_headers(scope: Scope, prefix: str) -> Headers:
    """What a module is sent: `Host` as the client had it, what was forwarded in our words alone."""
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
    """The headers with the length of the body as the client had it; whether there is a body."""
    names = {name: value for name, value in scope["headers"] if name in (b"transfer-encoding", b"content-length")}
    if b"transfer-encoding" in names:
        headers = [header for header in headers if header[0] != b"content-length"]
        return [*headers, (b"transfer-encoding", b"chunked")], True
    return headers, names.get(b"content-length", b"0") != b"0"


def response_headers(headers: Headers) -> Headers:
    """What the client is sent; the server adds `Date` by itself."""
    return [(name, value) for name, value in end_to_end(headers) if name.lower() != b"date"]


def of_message(headers: Mapping[str, str]) -> Headers:
    """Headers of a unary response; a Set-Cookie may hold several, one a line. What no header can hold is dropped."""
    found: Headers = []
    for name, joined in headers.items():
        folded = name.lower()
        if not folded.isascii() or not folded or any(char <= " " or char in ':"(),/' for char in folded):
            continue
        for value in joined.split("\n") if folded == "set-cookie" else [joined]:
            if not any(char in value for char in "\r\n\0"):
                found.append((folded.encode(), value.encode("latin-1", "replace")))
    return [header for header in response_headers(found) if header[0] != b"content-length"]


def as_message(headers: Headers) -> dict[str, str]:
    """Headers of a request as one object: each name once (RFC 9110, section 5.3)."""
    joined: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        between = "; " if key == "cookie" else ", "
        joined[key] = f"{joined[key]}{between}{text}" if key in joined else text
    return joined
