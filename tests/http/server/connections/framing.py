"""Where a request ends: lengths, codings, chunks, trailers, and what would smuggle a second request in."""

from __future__ import annotations

from tests.http.server.connections.case import PAUSE, Case, Expected, case, chunked, get, post, refused, request

_HIDDEN = get("/echo/hidden")
_NOT_HTTP = "POST /echo 400 (not HTTP)"
_CODING = "POST /echo 400 (a Transfer-Encoding that does not end in one `chunked`)"
_OVER = "POST /echo 431 (server.limits.header)"
_LONGER = "Content-Length: 60"


def _lengths() -> list[Case]:
    """Lengths that are not one number."""
    values = {
        "a sign": "+5",
        "a minus": "-5",
        "hexadecimal": "0x5",
        "a list": "5, 5",
        "a list of two": "5, 6",
        "a space within": "5 5",
        "letters": "five",
        "an empty value": "",
        "a fraction": "5.0",
        "more than 64 bits": "99999999999999999999",
    }
    return [
        refused(
            f"a Content-Length with {name}",
            request("POST", "/echo", f"Content-Length: {value}", body=b"hello"),
            400,
            _NOT_HTTP,
        )
        for name, value in values.items()
    ]


CASES = [
    case("a body with a length", post("/echo", b"hello"), Expected(200, body=b'"body": "hello"'),
         log="POST /echo 200", seen="POST /echo hello"),
    case("a body in pieces", (post("/echo", b"hello")[:-3], PAUSE, b"l", PAUSE, b"lo"), 200,
         log="POST /echo 200", seen="POST /echo hello"),
    case("a length of zero", post("/echo", b""), 200, log="POST /echo 200", seen="POST /echo"),
    case("a length with spaces around it", request("POST", "/echo", "Content-Length:   5  ", body=b"hello"), 200,
         log="POST /echo 200", seen="POST /echo hello"),
    case("a length with leading zeros", request("POST", "/echo", "Content-Length: 0005", body=b"hello"), 200,
         log="POST /echo 200", seen="POST /echo hello"),
    case("a GET with a body", request("GET", "/echo", "Content-Length: 5", body=b"hello"), 200,
         log="GET /echo 200", seen="GET /echo hello"),
    case("a body that looks like a request", post("/echo", _HIDDEN), 200,
         log="POST /echo 200", seen=f"POST /echo {_HIDDEN.decode()}".rstrip()),
    *_lengths(),
    refused("a length beside a coding", request("POST", "/echo", _LONGER, "Transfer-Encoding: chunked",
            body=b"0\r\n\r\n" + _HIDDEN), 400, _NOT_HTTP),
    refused("a coding beside a length", request("POST", "/echo", "Transfer-Encoding: chunked", _LONGER,
            body=b"0\r\n\r\n" + _HIDDEN), 400, _NOT_HTTP),
    refused("two lengths", request("POST", "/echo", "Content-Length: 5", "Content-Length: 6", body=b"hello!"), 400,
            _NOT_HTTP),
    refused("one length twice", request("POST", "/echo", "Content-Length: 5", "Content-Length: 5", body=b"hello"), 400,
            _NOT_HTTP),
    case("a length with an underscore is none", request("POST", "/echo", "Content_Length: 5"), 200,
         log="POST /echo 200", seen="POST /echo"),
    case("a coding with an underscore is none", request("POST", "/echo", "Transfer_Encoding: chunked"), 200,
         log="POST /echo 200", seen="POST /echo"),

    case("a body in chunks", chunked("/echo", b"he", b"llo"), Expected(200, body=b'"body": "hello"'),
         log="POST /echo 200", seen="POST /echo hello"),
    case("a coding in capitals", request("POST", "/echo", "Transfer-Encoding: CHUNKED", body=b"2\r\nhi\r\n0\r\n\r\n"),
         200, log="POST /echo 200", seen="POST /echo hi"),
    case("no chunk at all", chunked("/echo"), 200, log="POST /echo 200", seen="POST /echo"),
    case("a chunk with leading zeros", request("POST", "/echo", "Transfer-Encoding: chunked",
         body=b"0002\r\nhi\r\n000\r\n\r\n"), 200, log="POST /echo 200", seen="POST /echo hi"),
    case("many tiny chunks", chunked("/echo", *[b"x"] * 5000), 200,
         log="POST /echo 200", seen="POST /echo " + "x" * 5000),
    case("a chunk extension", request("POST", "/echo", "Transfer-Encoding: chunked",
         body=b'2;name=value;quoted="a b"\r\nhi\r\n0;last\r\n\r\n'), 200, log="POST /echo 200", seen="POST /echo hi"),
    refused("a chunk extension without an end", (request("POST", "/echo", "Transfer-Encoding: chunked"), b"2;",
            b"x" * 80_000), 431, _OVER, seen="POST /echo"),
    refused("many chunk extensions", (request("POST", "/echo", "Transfer-Encoding: chunked"),
            (b"1;" + b"x" * 500 + b"\r\nx\r\n") * 200), 431, _OVER, seen="POST /echo"),
    refused("a coding beside chunked", request("POST", "/echo", "Transfer-Encoding: gzip, chunked",
            body=b"0\r\n\r\n"), 501, "POST /echo 501 (a Transfer-Encoding other than `chunked`)"),
    refused("chunked twice in a list", request("POST", "/echo", "Transfer-Encoding: chunked, chunked",
            body=b"0\r\n\r\n" + _HIDDEN), 400, _NOT_HTTP),
    refused("chunked in two fields", request("POST", "/echo", "Transfer-Encoding: chunked",
            "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + _HIDDEN), 400,
            _NOT_HTTP),
    refused("chunked before another coding", request("POST", "/echo", "Transfer-Encoding: chunked, gzip",
            body=b"0\r\n\r\n" + _HIDDEN), 400, _NOT_HTTP),
    refused("identity", request("POST", "/echo", "Transfer-Encoding: identity", _LONGER, body=_HIDDEN), 400,
            _NOT_HTTP),
    refused("a coding that nearly is chunked", request("POST", "/echo", "Transfer-Encoding: xchunked",
            body=b"0\r\n\r\n" + _HIDDEN), 400, _CODING),
    refused("a coding with a vertical tab", request("POST", "/echo", "Transfer-Encoding: \x0bchunked",
            body=b"0\r\n\r\n" + _HIDDEN), 400, _NOT_HTTP),
    refused("a coding in quotes", request("POST", "/echo", 'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n" + _HIDDEN),
            400, _CODING),
    refused("an empty coding", request("POST", "/echo", "Transfer-Encoding:", body=b"0\r\n\r\n" + _HIDDEN), 400,
            _NOT_HTTP),
    refused("a coding in HTTP/1.0", request("POST", "/echo", "Transfer-Encoding: chunked", version="1.0",
            body=b"0\r\n\r\n" + _HIDDEN), 400, "POST /echo 400 (Transfer-Encoding in a request of HTTP/1.0)"),
    refused("a chunk size with a sign", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"+2\r\nhi\r\n"),
            400, _NOT_HTTP, seen="POST /echo"),
    refused("a chunk size with 0x", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"0x2\r\nhi\r\n"),
            400, _NOT_HTTP, seen="POST /echo"),
    refused("a chunk size with a space", request("POST", "/echo", "Transfer-Encoding: chunked", body=b"2 \r\nhi\r\n"),
            400, _NOT_HTTP, seen="POST /echo"),
    refused("a chunk size that overflows", request("POST", "/echo", "Transfer-Encoding: chunked",
            body=b"10000000000000002\r\nhi\r\n"), 400, _NOT_HTTP,
            seen="POST /echo"),
    refused("a chunk size that ends in a bare line feed", request("POST", "/echo", "Transfer-Encoding: chunked",
            body=b"2\nhi\r\n0\r\n\r\n"), 400, _NOT_HTTP,
            seen="POST /echo"),
    refused("an extension that ends in a bare line feed", request("POST", "/echo", "Transfer-Encoding: chunked",
            body=b"2;a\nhi\r\n0\r\n\r\n"), 400,
            _NOT_HTTP, seen="POST /echo"),
    refused("a chunk longer than its size", request("POST", "/echo", "Transfer-Encoding: chunked",
            body=b"2\r\nhello\r\n0\r\n\r\n"), 400, _NOT_HTTP,
            seen="POST /echo"),

    case("trailers", chunked("/echo", b"hi", end=b"0\r\nX-Forwarded-For: 198.51.100.7\r\nHost: b\r\n"
         b"Authorization: Bearer a\r\n\r\n"),
         Expected(200, body=b'["transfer-encoding", "chunked"], ["x-request-id"'),
         log="POST /echo 200", seen="POST /echo hi",
         gateway={"answers": (Expected(200, body=b'"body": "hi"'),)}),
    refused("a length among the trailers", chunked("/echo", b"hi", end=b"0\r\nContent-Length: 9\r\n\r\n"), 400,
            _NOT_HTTP, seen="POST /echo"),
    refused("a Host among the trailers that is too long", chunked("/echo", b"hi", end=b"0\r\nHost: " + b"a" * 5000
            + b"\r\n\r\n"), 431, _OVER, seen="POST /echo"),
    case("trailers in another segment", (chunked("/echo", b"hi", end=b"0\r\n"), PAUSE, b"X-Real-IP: 1", PAUSE,
         b"98.51.100.7\r\n\r\n"), 200, log="POST /echo 200", seen="POST /echo hi"),
    refused("trailers over the limit", (chunked("/echo", b"hi", end=b"0\r\n"), PAUSE,
            (b"x-a: " + b"a" * 500 + b"\r\n") * 10), 431, _OVER, seen="POST /echo hi"),
    refused("trailers without an end after a long body", (chunked("/echo", b"x" * 20000, end=b"0\r\n"),
            PAUSE, b"x-a: " + b"a" * 9000), 431, _OVER, seen="POST /echo " + "x" * 20000),
    refused("trailers without an end after many tiny chunks", (chunked("/echo", *[b"x"] * 5000, end=b"0\r\n"),
            PAUSE, b"x-a: " + b"a" * 9000), 431, _OVER,
            seen="POST /echo " + "x" * 5000),
    refused("a trailer with a space before its colon", chunked("/echo", b"hi", end=b"0\r\nX-A : 1\r\n\r\n"), 400,
            _NOT_HTTP, seen="POST /echo"),
    refused("a folded trailer", chunked("/echo", b"hi", end=b"0\r\nX-A: 1\r\n 2\r\n\r\n"), 400,
            _NOT_HTTP, seen="POST /echo"),
]  # fmt: skip
