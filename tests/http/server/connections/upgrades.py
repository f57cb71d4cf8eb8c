"""Offers to upgrade the connection: those that are not taken, and WebSocket handshakes."""

from __future__ import annotations

from tests.http.server.connections.case import PAUSE, Case, Expected, Until, case, chunked, get, post, request

_H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")
_HANDSHAKE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)  # fmt: skip
_HIDDEN = get("/echo/hidden")


def _but(name: str, *instead: str) -> tuple[str, ...]:
    """The handshake with another field in place of this one."""
    return (*(field for field in _HANDSHAKE if not field.startswith(name)), *instead)


def handshake(path: str, *fields: str) -> bytes:
    return get(path, *_HANDSHAKE, *fields)


def frame(payload: bytes, opcode: int = 2, *, fin: bool = True) -> bytes:
    """A frame of a client, masked with zeros."""
    length = len(payload)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2, "big")
    return bytes([0x80 * fin | opcode]) + size + bytes(4) + payload


def server_frame(payload: bytes, opcode: int = 2) -> bytes:
    """A short frame of a server."""
    return bytes([0x80 | opcode, len(payload)]) + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    return server_frame(code.to_bytes(2, "big") + reason, 8)


def _plain(name: str, *fields: str, path: str = "/echo", method: str = "GET") -> Case:
    """A handshake that is none: the request is served as any other."""
    return case(name, request(method, path, *fields) + get("/echo/2"), 200, 200,
                log=(f"{method} {path} 200", "GET /echo/2 200"), seen=(f"{method} {path}", "GET /echo/2"))  # fmt: skip


CASES = [
    case("h2c with a length", post("/echo", b"hello", *_H2C) + get("/echo/2"),
         Expected(200, body=b'"body": "hello"'), 200,
         log=("POST /echo 200", "GET /echo/2 200"), seen=("POST /echo hello", "GET /echo/2")),
    case("h2c with a length, and its body later", (post("/echo", b"hello", *_H2C)[:-5], PAUSE, b"hello"), 200,
         log="POST /echo 200", seen="POST /echo hello"),
    case("h2c in chunks", chunked("/echo", b"hello", fields=_H2C) + get("/echo/2"), 200, 200,
         log=("POST /echo 200", "GET /echo/2 200"), seen=("POST /echo hello", "GET /echo/2")),
    case("h2c in chunks, byte by byte", tuple(bytes([byte]) for byte in chunked("/echo", b"hello", fields=_H2C)), 200,
         log="POST /echo 200", seen="POST /echo hello"),
    case("h2c with a request as its body", post("/echo", _HIDDEN, *_H2C), 200, log="POST /echo 200",
         seen=f"POST /echo {_HIDDEN.decode()}".rstrip()),
    case("h2c in chunks with trailers", chunked("/echo", b"hi", fields=_H2C, end=b"0\r\nX-A: 1\r\n\r\n")
         + get("/echo/2"), 200, 200, log=("POST /echo 200", "GET /echo/2 200"),
         seen=("POST /echo hi", "GET /echo/2")),
    _plain("h2c without a body", *_H2C),
    case("h2c behind another request", get("/echo/1") + post("/echo/2", b"hi", *_H2C) + get("/echo/3"), 200, 200, 200,
         log=("GET /echo/1 200", "POST /echo/2 200", "GET /echo/3 200"),
         seen=("GET /echo/1", "POST /echo/2 hi", "GET /echo/3")),
    case("h2c and Connection: close", post("/echo", b"hi", "Connection: upgrade, close", "Upgrade: h2c")
         + get("/echo/2"), Expected(200, has=("connection: close",)), log="POST /echo 200", seen="POST /echo hi",
         closes=True),
    case("h2c and 100-continue", (request("POST", "/echo", *_H2C, "Expect: 100-continue", "Content-Length: 2"),
         Until(b"100 Continue\r\n\r\n"), b"hi"), 100, 200, log="POST /echo 200", seen="POST /echo hi"),
    case("h2c in chunks, which cannot be read", request("POST", "/echo", *_H2C, "Transfer-Encoding: chunked",
         body=b"x\r\n"), Expected(400, has=("connection: close",)),
         log="POST /echo 400 (not HTTP)", seen="POST /echo", closes=True,
         gateway={"log": ("gateway: POST /echo 400 (not HTTP)", "POST /echo 499 (not completed)")}),
    _plain("an Upgrade that Connection does not name", "Upgrade: websocket", *_HANDSHAKE[2:]),
    _plain("Connection: upgrade without an Upgrade", "Connection: upgrade"),
    _plain("a WebSocket by POST", *_HANDSHAKE, method="POST"),
    _plain("a WebSocket with a short key", *_but("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ=")),
    _plain("a WebSocket with a key that is none", *_but("Sec-WebSocket-Key", "Sec-WebSocket-Key: !")),
    _plain("a WebSocket without a key", *_but("Sec-WebSocket-Key")),
    _plain("a WebSocket with two keys", *_HANDSHAKE, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    _plain("a WebSocket of another version", *_but("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")),
    case("a WebSocket with a body", request("GET", "/echo", *_HANDSHAKE, "Content-Length: 2", body=b"hi"), 200,
         log="GET /echo 200", seen="GET /echo hi"),
    case("a WebSocket behind another request", get("/echo/1") + handshake("/echo/2"), 200, 200,
         log=("GET /echo/1 200", "GET /echo/2 200"), seen=("GET /echo/1", "GET /echo/2")),
]  # fmt: skip
