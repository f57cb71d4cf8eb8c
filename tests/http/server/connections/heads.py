"""What a head may be: versions, targets, one valid Host, fields and their limits."""

from __future__ import annotations

from collections.abc import Callable

from tests.http.server.connections.case import PAUSE, Case, Expected, Mark, Until, case, get, refused, request
from tests.http.server.serving import BOUNDS

_OVER = "GET /echo 431 (server.limits.header)"
_NOT_HTTP = "GET /echo 400 (not HTTP)"
_TLS_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(32)) + b"\x20"


def _sized(size: int) -> bytes:
    """A request whose head has so many bytes."""
    head = get("/echo", "X-Pad: ")
    return head[:-4] + b"a" * (size - len(head)) + head[-4:]


def _limit() -> list[Case]:
    """A head may be as long as limits.header says, however it arrives."""
    found: list[Case] = []
    fits, over = _sized(BOUNDS.header_bytes), _sized(BOUNDS.header_bytes + 1)
    ways: dict[str, Callable[[bytes], tuple[bytes | Mark, ...]]] = {
        "in one segment": lambda data: (data,),
        "in two segments": lambda data: (data[:100], PAUSE, data[100:]),
        "in two segments, the second of one byte": lambda data: (data[:-1], PAUSE, data[-1:]),
        "byte by byte": lambda data: tuple(data[at : at + 1] for at in range(len(data))),
    }
    for name, pieces in ways.items():
        found += [
            case(f"a head at the limit {name}", pieces(fits), 200, log="GET /echo 200", seen="GET /echo"),
            refused(f"a head over the limit {name}", pieces(over), 431, _OVER),
        ]
    both, lines = get("/early") + fits, ("GET /early 200", "GET /echo 200")
    half = _sized(3000)
    for name, send in {
        "behind another request": (both,),
        "behind another request, in two segments": (both[:300], PAUSE, both[300:]),
        "behind another long head": (get("/early", "X-Pad: " + "a" * 3000) + half[:10], PAUSE, half[10:-4], PAUSE,
                                     half[-4:]),
        "behind a long head in two segments": (get("/early", "X-Pad: " + "a" * 3000)[:2500], PAUSE,
                                               get("/early", "X-Pad: " + "a" * 3000)[2500:] + half[:10], PAUSE,
                                               half[10:-4], PAUSE, half[-4:]),
    }.items():  # fmt: skip
        found.append(case(f"a head at the limit {name}", send, 200, 200, log=lines, seen=("GET /early", "GET /echo")))
    found += [
        case("a head over the limit behind another request", get("/early") + over, 200,
             Expected(431, has=("connection: close",)), log=("GET /early 200", _OVER), seen="GET /early", closes=True,
             gateway={"log": ("GET /early 200", f"gateway: {_OVER}")}),
        refused("a head over the limit with names that are dropped",
                get("/echo", *[f"X_{number}: {'a' * 90}" for number in range(50)]), 431, _OVER),
    ]  # fmt: skip
    return found


def _bad_hosts() -> list[Case]:
    values = {
        "a user": "user:word@a", "a path": "a/b", "a query": "a?b", "a fragment": "a#b", "a space": "a b",
        "a list": "a, b", "a backslash": "a\\b", "letters as its port": "a:80x", "half a bracket": "[::1",
        "a byte above ASCII": "\xe9", "nothing in it": "", "a port alone": ":80", "a percent sign alone": "a%zz",
    }  # fmt: skip
    return [
        refused(f"a Host with {name}", f"GET /echo HTTP/1.1\r\nHost: {value}\r\n\r\n".encode("latin-1"), 400,
                "GET /echo 400 (a Host that is not valid)")
        for name, value in values.items()
    ]  # fmt: skip


def _good_hosts() -> list[Case]:
    return [
        case(f"the Host {value}", f"GET /echo HTTP/1.1\r\nHost: {value}\r\n\r\n".encode(),
             Expected(200, body=f'["host", "{value}"]'.encode()), log="GET /echo 200", seen="GET /echo")
        for value in ("shop.example:9900", "127.0.0.1", "[::1]:80", "a_b~c", "a%2d", "a:")
    ]  # fmt: skip


CASES = [
    case("a plain request", get("/echo"), Expected(200, body=b'"version": "1.1"'),
         log="GET /echo 200", seen="GET /echo"),
    case("line ends before a request", b"\r\n\r\n" + get("/echo"), 200, log="GET /echo 200", seen="GET /echo"),
    case("a query", get("/echo?a=%20b&c"), Expected(200, body=b'"query": "a=%20b&c"'),
         log="GET /echo 200", seen="GET /echo"),
    case("a path with an escape", get("/echo/%C3%A9"), 200, log="GET /echo/é 200", seen="GET /echo/é"),
    refused("HTTP/0.9", (b"GET /echo\r\n\r\n",), 505, "GET /echo 505 (HTTP/0.9)"),
    refused("HTTP/1.2", get("/echo", version="1.2"), 400, _NOT_HTTP),
    refused("HTTP/2.0", get("/echo", version="2.0"), 505, "GET /echo 505 (HTTP/2.0)"),
    refused("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "PRI * 400 (not HTTP)"),
    refused("a TLS hello", _TLS_HELLO, 400, "- - 400 (not HTTP)"),
    refused("a method in small letters", request("get", "/echo"), 400,
            "- - 400 (not HTTP)"),
    refused("an unknown method", request("BREW", "/echo"), 400, "- - 400 (not HTTP)"),
    case("a rare method", request("PROPFIND", "/echo"), 200, log="PROPFIND /echo 200", seen="PROPFIND /echo"),
    refused("CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400,
            "CONNECT a:80 400 (a request target that is no path and no http or https address)"),
    refused("an authority as the target", b"GET a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 400, "- - 400 (not HTTP)"),
    refused("a fragment in the target", get("/echo#x"), 400,
            "GET /echo#x 400 (a request target with a character that is not allowed)"),
    refused("a space in the target", b"GET /echo HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n", 400, _NOT_HTTP),
    refused("a target without a slash", b"GET echo HTTP/1.1\r\nHost: a\r\n\r\n", 400, "- - 400 (not HTTP)"),

    case("an absolute target, whose host counts", get("http://b.example:8080/echo?q"),
         Expected(200, body=b'["host", "b.example:8080"]'), log="GET /echo 200", seen="GET /echo"),
    case("an absolute target again, and the same as a path",
         (get("http://b.example/echo/1"), Until(b"/echo/1"), PAUSE, get("http://b.example/echo/1"), PAUSE,
          get("/echo/2"), PAUSE, get("/echo/2"), PAUSE, get("http://b.example/echo/1")),
         *[Expected(200, body=b'["host", "b.example"]')] * 2, *[Expected(200, body=b'["host", "a"]')] * 2,
         Expected(200, body=b'["host", "b.example"]'),
         log=("GET /echo/1 200",) * 3 + ("GET /echo/2 200",) * 2,
         seen=("GET /echo/1", "GET /echo/1", "GET /echo/2", "GET /echo/2", "GET /echo/1")),
    case("an absolute https target", get("https://b.example/echo"),
         Expected(200, body=b'["host", "b.example"]'), log="GET /echo 200", seen="GET /echo"),
    case("an absolute target in capitals", get("HTTP://b.example/echo"), 200, log="GET /echo 200", seen="GET /echo"),
    refused("an absolute target with a user", get("http://u:p@b.example/echo"), 400,
            "GET http://b.example/echo 400 (an absolute request target without a valid host)"),
    refused("an absolute target without a host", get("http:///echo"), 400,
            "GET http:///echo 400 (a request target that is no path and no http or https address)"),
    refused("an absolute target of another scheme", get("ftp://b.example/echo"), 400,
            "GET ftp://b.example/echo 400 (a request target that is no path and no http or https address)"),
    refused("an absolute target without Host", b"GET http://b.example/echo HTTP/1.1\r\n\r\n", 400,
            "GET http://b.example/echo 400 (no Host)"),
    case("OPTIONS of everything", request("OPTIONS", "*"), 200, log="OPTIONS * 200", seen="OPTIONS *",
         gateway={"answers": (Expected(400),), "log": ("gateway: OPTIONS * 400",), "seen": ()}),

    refused("no Host", b"GET /echo HTTP/1.1\r\n\r\n", 400, "GET /echo 400 (no Host)"),
    refused("two Hosts", get("/echo", "Host: b"), 400, "GET /echo 400 (more than one Host)"),
    refused("one Host twice", get("/echo", "Host: a"), 400, "GET /echo 400 (more than one Host)"),
    *_bad_hosts(),
    *_good_hosts(),

    refused("a folded field", get("/echo", "X-A: 1", " 2"), 400, _NOT_HTTP),
    refused("a folded first field", b"GET /echo HTTP/1.1\r\n X-A: 1\r\nHost: a\r\n\r\n", 400, _NOT_HTTP),
    refused("a space before a colon", get("/echo", "Content-Length : 5"), 400, _NOT_HTTP),
    refused("a tab before a colon", get("/echo", "X-A\t: 5"), 400, _NOT_HTTP),
    refused("a field without a colon", get("/echo", "X-A"), 400, _NOT_HTTP),
    refused("a field without a name", get("/echo", ": 1"), 400, _NOT_HTTP),
    refused("a name with a bracket", get("/echo", "X[A]: 1"), 400, _NOT_HTTP),
    refused("a bare carriage return", get("/echo", "X-A: 1\rX-B: 2"), 400, _NOT_HTTP),
    refused("a bare line feed", get("/echo", "X-A: 1\nX-B: 2"), 400, _NOT_HTTP),
    refused("bare line feeds alone", b"GET /echo HTTP/1.1\nHost: a\n\n", 400, _NOT_HTTP),
    refused("a NUL in a value", get("/echo", "X-A: 1\x002"), 400, _NOT_HTTP),
    refused("a NUL in a name", get("/echo", "X\x00A: 1"), 400, _NOT_HTTP),
    refused("a NUL in the target", get("/ec\x00ho"), 400, "- - 400 (not HTTP)"),
    refused("a control character in a value", get("/echo", "X-A: 1\x012"), 400, _NOT_HTTP),
    case("bytes above ASCII in a value", get("/echo", "X-A: \xe9"), Expected(200, body=b'["x-a", "\\u00e9"]'),
         log="GET /echo 200", seen="GET /echo"),
    case("an empty value", get("/echo", "X-A:"), Expected(200, body=b'["x-a", ""]'),
         log="GET /echo 200", seen="GET /echo"),
    case("names with an underscore are dropped", get("/echo", "X_Forwarded_For: 1", "X-A_B: 2", "X-C: 3"),
         Expected(200, body=b'[["host", "a"], ["x-c", "3"], ["x-request-id"'), log="GET /echo 200", seen="GET /echo",
         gateway={"answers": (Expected(200, body=b'["x-c", "3"]'),)}),
    case("forwarding fields of a stranger are dropped",
         get("/echo", "X-Forwarded-For: 198.51.100.7", "Forwarded: for=b", "X-HTTP-Method-Override: DELETE", "X-C: 3"),
         Expected(200, body=b'[["host", "a"], ["x-c", "3"], ["x-request-id"'), log="GET /echo 200", seen="GET /echo",
         gateway={"answers": (Expected(200, body=b'["x-c", "3"]'),)}),

    case("a request id of the client", get("/echo", "X-Request-ID: abc-1"),
         Expected(200, has=("x-request-id: abc-1",), body=b'["x-request-id", "abc-1"]'),
         log="GET /echo 200", seen="GET /echo"),
    case("two request ids", get("/echo", "X-Request-ID: abc-1", "X-Request-ID: abc-1"),
         Expected(200, body=b'[["host", "a"], ["x-request-id"'), log="GET /echo 200", seen="GET /echo",
         gateway={"answers": (Expected(200),)}),
    case("a request id that is none", get("/echo", "X-Request-ID: a b"),
         Expected(200, body=b'[["host", "a"], ["x-request-id"'), log="GET /echo 200", seen="GET /echo",
         gateway={"answers": (Expected(200),)}),
    *_limit(),
]  # fmt: skip
