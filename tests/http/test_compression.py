"""`server.compress`: which responses are coded, what their heads say, and how their bodies leave."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.http.compression import Compression
from pywatt_host.http.content_coding import ContentCoding, accepts_gzip
from pywatt_host.types import ASGIApp, Headers, Message, Receive, Scope, Send
from tests.hosting import Answer, Call, Hosted, hosted, http_scope, run

TEXT = b"all work and no play makes jack a dull boy. " * 100
TYPES = ["text/*", "application/json", "application/*+json", "multipart/*"]
GZIP = [("Accept-Encoding", "gzip")]
PLAIN = (b"content-type", b"text/plain; charset=utf-8")
CODING = ContentCoding(1024, TYPES)


@pytest.fixture
def compression() -> Iterator[Compression]:
    compression = Compression(1024, TYPES, 6)
    yield compression
    compression.close()


def unzip(data: bytes) -> bytes:
    return zlib.decompress(data, 31)


@pytest.mark.parametrize(
    ("value", "accepts"),
    [
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("br, gzip;q=0.8", True),
        ("gzip;q=0.001", True),
        ("gzip ; q=1.000", True),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0, *", False),
        ("*", True),
        ("*;q=0.5", True),
        ("*;q=0", False),
        ("identity", False),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("gzip, identity;q=0", True),
        ("", False),
        ("br, zstd", False),
        ("gzip;q=2", False),
        ("gzip;q=yes", False),
        ("gzipped", False),
        (",, gzip ,", True),
    ],
)
def test_accept_encoding_is_read_with_its_qualities(value: str, accepts: bool) -> None:
    assert accepts_gzip(value.encode()) is accepts


def decided(status: int, *headers: tuple[bytes, bytes], asked: Sequence[tuple[str, str]] = GZIP) -> Any:
    return CODING.of(http_scope("GET", "/", asked), status, list(headers))


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [(b"content-type", b"image/png")]),
        (200, [(b"content-type", b"text/event-stream")]),
        (200, [(b"content-type", b"Text/Event-Stream; charset=utf-8")]),
        (200, [(b"content-type", b"multipart/x-mixed-replace; boundary=a")]),
        (200, [(b"content-type", b"application/jsonx")]),
        (200, []),
        (200, [PLAIN, (b"content-length", b"1023")]),
        (200, [PLAIN, (b"content-length", b"many")]),
        (200, [PLAIN, (b"content-length", b"5000"), (b"content-length", b"6000")]),
        (200, [PLAIN, (b"content-encoding", b"br")]),
        (200, [PLAIN, (b"content-encoding", b"identity")]),
        (200, [PLAIN, (b"content-range", b"bytes 0-9/10")]),
        (200, [PLAIN, (b"repr-digest", b"sha-256=:x:")]),
        (200, [PLAIN, (b"cache-control", b"public, No-Transform")]),
        (204, [PLAIN]),
        (205, [PLAIN]),
        (206, [PLAIN]),
        (103, [PLAIN]),
    ],
)
def test_what_must_not_be_coded_is_left_as_it_is(status: int, headers: Headers) -> None:
    decision = decided(status, *headers)
    assert (decision.headers, decision.coded) == (headers, None)


@pytest.mark.parametrize("kind", [b"text/html", b"application/json", b"application/PROBLEM+json; charset=utf-8"])
@pytest.mark.parametrize("status", [200, 201, 404, 500])
def test_types_and_patterns_of_types_are_coded(kind: bytes, status: int) -> None:
    decision = decided(status, (b"Content-Type", kind), (b"Content-Length", b"1024"), (b"accept-ranges", b"bytes"))
    assert decision.coded == [(b"Content-Type", kind), (b"vary", b"Accept-Encoding"), (b"content-encoding", b"gzip")]
    assert decision.length == 1024


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [b"Accept-Encoding"]),
        ([b"Origin"], [b"Origin, Accept-Encoding"]),
        ([b"accept-encoding, Cookie"], [b"accept-encoding, Cookie"]),
        ([b"*"], [b"*"]),
        ([b"Origin", b"Accept-Encoding"], [b"Origin", b"Accept-Encoding"]),
        ([b""], [b"Accept-Encoding"]),
    ],
)
@pytest.mark.parametrize("asked", [GZIP, [], [("Accept-Encoding", "br")], [*GZIP, ("Range", "bytes=0-9")]])
def test_vary_is_there_whether_the_response_is_coded_or_not(
    before: list[bytes], after: list[bytes], asked: list[tuple[str, str]]
) -> None:
    decision = decided(200, PLAIN, *((b"vary", value) for value in before), asked=asked)
    assert [value for name, value in decision.headers if name == b"vary"] == after
    assert (decision.coded is not None) is (asked == GZIP)


def test_a_coded_response_has_a_weak_entity_tag() -> None:
    for before, after in [(b'"a"', b'W/"a"'), (b'W/"a"', b'W/"a"')]:
        decision = decided(200, PLAIN, (b"etag", before))
        assert (b"etag", after) in decision.coded
        assert (b"etag", before) in decision.headers


@pytest.mark.parametrize(
    ("sent", "tag"),
    [
        ('W/"a"', b'W/"a"'),
        ('"b", W/"a"', b'W/"a"'),
        ('"a"', b'"a"'),
        ("*", b'"a"'),
        ('W/"b"', b'"a"'),
        ('W/"aa"', b'"a"'),
    ],
)
def test_304_has_the_entity_tag_of_what_the_client_has(sent: str, tag: bytes) -> None:
    decision = decided(304, (b"etag", b'"a"'), asked=[*GZIP, ("If-None-Match", sent)])
    assert decision.coded is None
    assert dict(decision.headers)[b"etag"] == tag
    assert (b"vary" in dict(decision.headers)) is tag.startswith(b"W/")


# Bodies ---------------------------------------------------------------------------------------------------------------


def sending(*bodies: bytes, headers: Headers, status: int = 200) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for number, body in enumerate(bodies, 1):
            await send({"type": "http.response.body", "body": body, "more_body": number < len(bodies)})

    return app


def length(count: int) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % count


async def called(compression: Compression, app: ASGIApp, method: str = "GET") -> list[Message]:
    call = Call(compression.app(app), http_scope(method, "/", GZIP))
    await call.task
    return call.sent


def test_a_whole_body_has_its_new_length(compression: Compression) -> None:
    async def main() -> None:
        start, body = await called(compression, sending(TEXT, headers=[PLAIN, length(len(TEXT))]))
        assert length(len(body["body"])) in start["headers"]
        assert length(len(TEXT)) not in start["headers"]
        assert unzip(body["body"]) == TEXT

    run(main)


def test_each_part_of_a_stream_can_be_read_as_soon_as_it_is_sent(compression: Compression) -> None:
    async def main() -> None:
        parts = [b"one ", b"two ", b"", b"three", b""]
        start, *bodies = await called(compression, sending(*parts, headers=[PLAIN]))
        assert (b"content-encoding", b"gzip") in start["headers"]
        reader, read = zlib.decompressobj(31), []
        for message in bodies:
            read.append(reader.decompress(message["body"]))
        assert read == parts
        assert reader.eof
        assert [message["more_body"] for message in bodies] == [True, True, True, True, False]
        assert bodies[2]["body"] == b""

    run(main)


def test_the_head_of_a_stream_leaves_before_its_first_part(compression: Compression) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
            started.set()
            await go_on.wait()
            await send({"type": "http.response.body", "body": b"late"})

        started = asyncio.Event()
        call = Call(compression.app(app), http_scope("GET", "/", GZIP))
        await started.wait()
        assert [message["type"] for message in call.sent] == ["http.response.start"]
        go_on.set()
        await call.task
        assert unzip(call.body) == b"late"

    run(main)


def test_a_body_of_known_length_in_parts_loses_its_length(compression: Compression) -> None:
    async def main() -> None:
        start, *bodies = await called(compression, sending(TEXT, TEXT, headers=[PLAIN, length(2 * len(TEXT))]))
        assert b"content-length" not in dict(start["headers"])
        assert unzip(b"".join(message["body"] for message in bodies)) == 2 * TEXT

    run(main)


@pytest.mark.parametrize("size", [32 * 1024, 32 * 1024 + 1, 1024**2, 1024**2 + 1, 3 * 1024**2])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_long_bodies_arrive_whole_in_bounded_pieces(
    compression: Compression, size: int, kind: Callable[[bytes], Any]
) -> None:
    async def main() -> None:
        text = (TEXT * (size // len(TEXT) + 1))[:size]
        start, *bodies = await called(compression, sending(kind(text), headers=[PLAIN, length(size)]))
        assert unzip(b"".join(message["body"] for message in bodies)) == text
        assert len(bodies) == (1 if size <= 1024**2 else -(-size // (256 * 1024)))
        assert (b"content-length" in dict(start["headers"])) is (size <= 1024**2)

    run(main)


def test_the_event_loop_goes_on_while_a_long_body_is_compressed(compression: Compression) -> None:
    async def main() -> None:
        loop_thread, threads = threading.get_ident(), set()
        stream = compression.stream

        class Watched:
            def __init__(self) -> None:
                self._stream = stream()

            def compress(self, data: Any) -> bytes:
                threads.add((len(data) > 32 * 1024, threading.get_ident() == loop_thread))
                return self._stream.compress(data)

            def flush(self, mode: int) -> bytes:
                return self._stream.flush(mode)

        compression.stream = Watched  # type: ignore[assignment, method-assign]
        for size in (5000, 500_000, 2_000_000):
            await called(compression, sending(b"x" * size, headers=[PLAIN, length(size)]))
        assert threads == {(False, True), (True, False)}

    run(main)


def test_a_slow_client_holds_the_application(compression: Compression) -> None:
    async def main() -> None:
        taken, sent = asyncio.Semaphore(0), 0

        async def send(message: Message) -> None:
            await taken.acquire()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": [PLAIN]})
            for _ in range(10):
                await send({"type": "http.response.body", "body": TEXT, "more_body": True})
                sent += 1

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        task = asyncio.create_task(_run(compression.app(app), http_scope("GET", "/", GZIP), receive, send))
        for allowed in range(1, 4):
            taken.release()
            for _ in range(5):
                await asyncio.sleep(0)
            assert sent == allowed - 1
        task.cancel()

    run(main)


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def test_a_body_that_does_not_become_shorter_is_sent_as_it_is(compression: Compression) -> None:
    async def main() -> None:
        noise = zlib.compress(TEXT * 20, 9) * 30
        noise = bytes(byte ^ number % 251 for number, byte in enumerate(noise))
        data = zlib.compress(noise, 9)
        assert len(data) > 1024
        start, body = await called(compression, sending(data, headers=[PLAIN, length(len(data)), (b"etag", b'"a"')]))
        assert body["body"] == data
        assert b"content-encoding" not in dict(start["headers"])
        assert dict(start["headers"])[b"etag"] == b'"a"'
        assert dict(start["headers"])[b"vary"] == b"Accept-Encoding"

    run(main)


def test_head_has_the_headers_of_get_and_no_length(compression: Compression) -> None:
    async def main() -> None:
        start, body = await called(compression, sending(b"", headers=[PLAIN, length(len(TEXT))]), "HEAD")
        assert start["headers"] == [PLAIN, (b"vary", b"Accept-Encoding"), (b"content-encoding", b"gzip")]
        assert body["body"] == b""

    run(main)


def test_a_body_that_is_not_as_long_as_it_says_is_an_error(compression: Compression) -> None:
    async def main() -> None:
        # The server refuses what is passed on with a length that does not fit.
        start, body = await called(compression, sending(TEXT, headers=[PLAIN, length(5000)]))
        assert (body["body"], length(5000) in start["headers"]) == (TEXT, True)
        for bodies in ([TEXT, b""], [TEXT, TEXT, b""]):
            with pytest.raises(RuntimeError, match="Content-Length"):
                await called(compression, sending(*bodies, headers=[PLAIN, length(5000)]))

    run(main)


def test_an_extension_that_sends_files_is_not_offered(compression: Compression) -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope.get("extensions"))

        debug: dict[str, Any] = {"http.response.debug": {}}
        given = {"http.response.pathsend": {}, **debug}
        for extensions in (given, debug):
            scope = http_scope("GET", "/", GZIP, extensions=extensions)
            await Call(compression.app(app), scope).task
        assert seen == [{"http.response.debug": {}}] * 2
        assert len(given) == 2

    run(main)


# In a host ------------------------------------------------------------------------------------------------------------


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(TEXT)))])
    return [TEXT]


async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await sending(TEXT, headers=[PLAIN, length(len(TEXT))])(scope, receive, send)


def decoded(answer: Answer) -> bytes:
    assert answer.header("content-encoding") == "gzip"
    return unzip(answer.body)


async def got(host: Hosted, path: str, **headers: str) -> Answer:
    return await host.get(path, headers={"Accept-Encoding": "gzip", **headers})


def test_applications_and_metrics_are_compressed_where_the_manifest_says_so() -> None:
    async def main() -> None:
        mounts = [{"route_prefix": "/wsgi", "import_path": "under_test:wsgi", "interface": "wsgi"}]
        manifest = {"server": {"compress": True}, "mounts": mounts, "metrics": True}
        async with hosted(manifest, asgi, wsgi=wsgi) as host:
            for path in ("/", "/wsgi"):
                assert decoded(await got(host, path)) == TEXT
                answer = await host.get(path)
                assert (answer.body, answer.header("vary")) == (TEXT, "Accept-Encoding")
            assert b"# HELP" in decoded(await got(host, "/metrics"))
            assert (await host.get("/metrics")).body.startswith(b"# HELP")
            assert (await got(host, "/livez")).header("content-encoding") == ""
            assert (await host.request("HEAD", "/metrics", headers=dict(GZIP))).header("content-encoding") == ""
            assert host.access()[0]["bytes"] < len(TEXT)
        assert not [each for each in threading.enumerate() if each.name.startswith("pywatt compression")]

    run(main)


def test_nothing_is_compressed_without_the_key() -> None:
    async def main() -> None:
        async with hosted({}, asgi) as host:
            answer = await got(host, "/")
            assert (answer.body, answer.header("vary")) == (TEXT, "")

    run(main)


def test_refusals_and_faults_stay_problems() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/held":
            await send({"type": "http.response.start", "status": 200, "headers": [PLAIN, length(5000)]})
        raise ValueError("a fault before anything has left")

    async def main() -> None:
        async with hosted({"server": {"compress": True}}, app) as host:
            for path in ("/", "/held"):
                answer = await got(host, path)
                assert (answer.status, answer.header("content-type")) == (500, "application/problem+json")

    run(main)


def test_files_are_compressed_with_consistent_conditions(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a.txt").write_bytes(TEXT * 50)  # several parts
        (tmp_path / "a.png").write_bytes(TEXT)
        manifest = {"server": {"compress": True}, "mounts": [{"route_prefix": "/s", "directory": "."}]}
        async with hosted(manifest, asgi, directory=tmp_path) as host:
            whole = await got(host, "/s/a.txt")
            assert decoded(whole) == TEXT * 50
            tag = whole.header("etag")
            assert tag.startswith('W/"')
            assert whole.header("accept-ranges") == ""
            again = await got(host, "/s/a.txt", **{"If-None-Match": tag})
            assert (again.status, again.header("etag"), again.header("vary")) == (304, tag, "Accept-Encoding")
            strong = await host.get("/s/a.txt", headers={"If-None-Match": tag.removeprefix("W/")})
            assert (strong.status, strong.header("etag")) == (304, tag.removeprefix("W/"))
            part = await got(host, "/s/a.txt", Range="bytes=0-9")
            assert (part.status, part.body, part.header("content-encoding")) == (206, TEXT[:10], "")
            resumed = await got(host, "/s/a.txt", **{"Range": "bytes=0-9", "If-Range": tag})
            assert (resumed.status, resumed.header("content-encoding")) == (200, "")
            assert (await got(host, "/s/a.png")).header("vary") == ""

    run(main)


def test_cors_and_compression_share_vary() -> None:
    async def main() -> None:
        manifest = {"server": {"compress": True, "cors": {"allow_origins": ["https://a.example"]}}}
        async with hosted(manifest, asgi) as host:
            answer = await got(host, "/", Origin="https://a.example")
            assert decoded(answer) == TEXT
            assert {each.strip() for each in answer.header("vary").split(",")} == {"Accept-Encoding", "Origin"}

    run(main)
