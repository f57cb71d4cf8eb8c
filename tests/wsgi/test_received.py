"""A body is received before a thread is taken: in memory up to a bound, then in a file, and always with its length."""

import asyncio
import errno
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import flask
import pytest

from pywatt_host.wsgi import received
from pywatt_host.wsgi.received import MEMORY_BYTES, NotStoredError, receive_body

CHUNKED = [("transfer-encoding", "chunked")]


def describe(environ: Any, start_response: Any) -> list[bytes]:
    """Answer like a framework that reads exactly CONTENT_LENGTH bytes (Bottle, Falcon), with the length."""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = environ["wsgi.input"].read(length)
    start_response("200 OK", [("x-length", environ.get("CONTENT_LENGTH", "none"))])
    return [body]


class Files:
    """Every temporary file that was made for a body."""

    def __init__(self) -> None:
        self.made: list[BinaryIO] = []

    def __call__(self, **options: Any) -> BinaryIO:
        file: BinaryIO = tempfile.TemporaryFile(**options)  # noqa: SIM115  # the bridge closes it
        self.made.append(file)
        return file

    def all_closed(self) -> bool:
        return all(file.closed for file in self.made)


@pytest.fixture
def files(monkeypatch: Any) -> Iterator[Files]:
    made = Files()
    monkeypatch.setattr(received, "TemporaryFile", made)
    yield made
    assert made.all_closed(), "a file stayed open"


# The length -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [(b"abc",), (b"ab", b"", b"c"), (b"x" * 50_000,) * 4, (b"",)])
def test_a_chunked_body_has_a_length_and_no_transfer_encoding(answer: Any, files: Any, pieces: Any) -> None:
    seen: dict[str, Any] = {}

    def app(environ: Any, start_response: Any) -> Any:
        seen.update(environ)
        return describe(environ, start_response)

    caller = answer(app, *pieces, method="POST", headers=[*CHUNKED, ("trailer", "x-sum"), ("te", "trailers")])
    body = b"".join(pieces)
    assert (caller.body, caller.header[b"x-length"]) == (body, b"%d" % len(body))
    assert "HTTP_TRANSFER_ENCODING" not in seen
    assert "HTTP_TRAILER" not in seen
    assert seen["wsgi.input_terminated"] is True


def test_a_declared_length_stays_as_it_is(answer: Any) -> None:
    assert answer(describe, b"ab", b"c", headers=[("content-length", "3")]).header[b"x-length"] == b"3"


@pytest.mark.parametrize(("body", "length"), [(b"abc", b"3"), (b"", b"none")])
def test_a_body_of_http_2_has_the_length_that_was_received(drive: Any, client: Any, body: Any, length: Any) -> None:
    async def scenario(bridge: Any) -> None:
        caller = client(body, http_version="2")
        caller.scope["headers"] = []
        await caller.call(bridge)
        assert (caller.body, caller.header[b"x-length"]) == (body, length)

    drive(describe, scenario)


def test_a_request_without_a_body_is_not_asked_for_one(answer: Any) -> None:
    assert answer(describe).received == 0
    assert answer(describe, headers=[("content-length", "0")]).received == 0


@pytest.mark.parametrize("size", [10, 3 * MEMORY_BYTES])
def test_flask_reads_a_chunked_form_and_knows_its_length(answer: Any, size: int) -> None:
    app = flask.Flask(__name__)

    @app.post("/")
    def form() -> str:
        return f"{len(flask.request.form['a'])} {flask.request.content_length}"

    headers = [*CHUNKED, ("content-type", "application/x-www-form-urlencoded")]
    body = b"a=" + b"x" * size
    pieces = [body[start : start + 60_000] for start in range(0, len(body), 60_000)]
    app.config["MAX_FORM_MEMORY_SIZE"] = None
    assert answer(app, *pieces, method="POST", headers=headers).body == f"{size} {size + 2}".encode()


# Threads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"x", b"x" * (MEMORY_BYTES + 1)], ids=["short", "longer than the memory for it"])
@pytest.mark.parametrize("headers", [CHUNKED, [("content-length", "1000000")]], ids=["chunked", "declared"])
def test_slow_bodies_hold_no_thread(drive: Any, client: Any, files: Any, piece: Any, headers: Any) -> None:
    async def scenario(bridge: Any) -> None:
        slow = [client(piece, more=True, method="POST", headers=headers) for _ in range(32)]
        tasks = [asyncio.create_task(caller.call(bridge)) for caller in slow]
        async with asyncio.timeout(10):
            while not all(caller.uploads.empty() for caller in slow):  # noqa: ASYNC110  # a queue has no such event
                await asyncio.sleep(0)
        quick = client()
        await quick.call(bridge)
        assert quick.status == 200
        assert (bridge.running, bridge.waiting) == (0, 0)
        for caller in slow[:16]:
            caller.upload(b"end", more=False)
        for caller in slow[16:]:
            caller.disconnect()
        await asyncio.gather(*tasks)
        assert [len(caller.sent) for caller in slow] == [2] * 16 + [0] * 16
        if headers is CHUNKED:
            assert {caller.body for caller in slow[:16]} == {piece + b"end"}

    drive(describe, scenario, threads=2)


def test_clients_that_wait_for_100_continue_hold_a_quarter_of_the_threads_at_most(
    drive: Any, client: Any, happened: Any
) -> None:
    inside = threading.Semaphore(0)

    def app(environ: Any, start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "POST":
            inside.release()
            environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [b"done"]

    async def scenario(bridge: Any) -> None:
        asking = [client(b"", more=True, asking=True, method="POST") for _ in range(12)]
        tasks = [asyncio.create_task(caller.call(bridge)) for caller in asking]
        for _ in range(2):
            assert await asyncio.to_thread(inside.acquire, timeout=10)
        quick = [client() for _ in range(20)]
        await asyncio.gather(*(caller.call(bridge) for caller in quick))
        assert {caller.body for caller in quick} == {b"done"}
        assert bridge.running == 2
        for caller in asking:
            caller.upload(b"end", more=False)
        await asyncio.gather(*tasks)
        assert {caller.body for caller in asking} == {b"done"}

    drive(app, scenario, threads=8)


# Memory and files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 16 * 1024], ids=["tiny pieces", "pieces of a server"])
def test_the_memory_for_a_body_is_bounded(files: Any, size: int) -> None:
    piece, count = b"x" * size, 4 * MEMORY_BYTES // size
    left = count

    async def receive() -> Any:
        nonlocal left
        left -= 1
        return {"type": "http.request", "body": piece, "more_body": left > 0}

    async def main() -> None:
        await asyncio.to_thread(str)  # the executor costs memory once
        tracemalloc.start()
        try:
            body = await receive_body(receive)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert body is not None
        with body.file as file:
            assert (body.length, len(file.read())) == (4 * MEMORY_BYTES, 4 * MEMORY_BYTES)
        assert peak < 3 * MEMORY_BYTES
        assert len(files.made) == 1

    asyncio.run(main())


def test_a_short_body_needs_no_file(answer: Any, files: Any) -> None:
    assert len(answer(describe, *[b"x" * 1024] * 64).body) == MEMORY_BYTES
    assert files.made == []


def test_a_body_in_a_file_reads_like_any_other_and_the_file_ends_with_the_request(answer: Any, files: Any) -> None:
    read: list[Any] = []

    def app(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"]
        read.extend([body.readline(), body.readline(3), body.read(5), next(body), len(body.readlines()), body.read()])
        start_response("200 OK", [])
        return []

    assert answer(app, *[b"a line\n" * 10_000] * 3).status == 200
    assert read == [b"a line\n", b"a l", b"ine\na", b" line\n", 29_997, b""]
    assert len(files.made) == 1


@pytest.mark.parametrize("end", ["disconnect", "cancel", "error"])
def test_the_file_is_closed_when_the_rest_of_the_body_does_not_arrive(
    drive: Any, client: Any, files: Any, end: Any
) -> None:
    async def scenario(bridge: Any) -> None:
        caller = client(b"x" * MEMORY_BYTES * 2, b"x" * MEMORY_BYTES, more=True)
        failing = asyncio.Event()

        async def receive() -> Any:
            if end == "error" and caller.uploads.empty():
                raise OSError("reset")
            if caller.uploads.empty():
                failing.set()
            return await caller.receive()

        task = asyncio.create_task(bridge(caller.scope, receive, caller.send))
        if end != "error":
            await failing.wait()
        if end == "disconnect":
            caller.disconnect()
        elif end == "cancel":
            task.cancel()
        results = await asyncio.gather(task, return_exceptions=True)
        ended: dict[str, Any] = {"disconnect": type(None), "cancel": asyncio.CancelledError, "error": OSError}
        assert isinstance(results[0], ended[end])
        assert caller.sent == []
        assert len(files.made) == 1
        assert files.all_closed()

    drive(lambda environ, start_response: pytest.fail("the app was called"), scenario)


def test_a_request_that_is_cancelled_while_its_body_is_written_leaves_no_file_open(
    drive: Any, client: Any, files: Any, monkeypatch: Any, happened: Any
) -> None:
    writing, go, closed = threading.Event(), threading.Event(), threading.Event()

    def slow_disk(**options: Any) -> Any:
        writing.set()
        assert go.wait(10)
        file = files(**options)
        close = file.close

        class Told:
            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def close(self) -> None:
                close()
                closed.set()

        return Told()

    monkeypatch.setattr(received, "TemporaryFile", slow_disk)

    async def scenario(bridge: Any) -> None:
        task = asyncio.create_task(client(b"x", b"x" * MEMORY_BYTES, more=True).call(bridge))
        await happened(writing)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go.set()
        await happened(closed)

    drive(describe, scenario)
    assert len(files.made) == 1


def test_a_request_that_waits_for_a_thread_closes_its_file_when_it_is_cancelled_or_refused(
    drive: Any, client: Any, files: Any, happened: Any
) -> None:
    entered, go = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> Any:
        entered.set()
        assert go.wait(10)
        start_response("200 OK", [])
        return []

    async def scenario(bridge: Any) -> None:
        first = asyncio.create_task(client().call(bridge))
        await happened(entered)
        callers = [client(b"x", b"x" * MEMORY_BYTES) for _ in range(2)]
        tasks = [asyncio.create_task(caller.call(bridge)) for caller in callers]
        async with asyncio.timeout(10):
            while bridge.waiting < 2:  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(tasks[0], return_exceptions=True)
        closing = asyncio.create_task(bridge.aclose(10))
        await tasks[1]
        assert callers[1].status == 503
        assert len(files.made) == 2
        assert files.all_closed()
        go.set()
        await asyncio.gather(first, closing)

    drive(app, scenario, threads=1)


def test_the_file_is_closed_when_the_system_starts_no_thread(
    drive: Any, client: Any, files: Any, monkeypatch: Any
) -> None:
    def refuse(thread: Any) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario(bridge: Any) -> None:
        await asyncio.to_thread(str)  # the thread that writes the file
        monkeypatch.setattr("pywatt_host.wsgi.threads._Worker.start", refuse)
        with pytest.raises(RuntimeError, match="would not start a thread"):
            await client(b"x", b"x" * MEMORY_BYTES).call(bridge)
        assert len(files.made) == 1
        assert files.all_closed()

    drive(describe, scenario)


# No room --------------------------------------------------------------------------------------------------------------


class FullDisk:
    """A file on a disk without room."""

    def __init__(self, **options: Any) -> None:
        self.closed = False

    def write(self, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def close(self) -> None:
        self.closed = True
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_answered_with_507_and_logged_once(
    drive: Any, client: Any, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(received, "TemporaryFile", FullDisk)

    async def scenario(bridge: Any) -> None:
        for _ in range(3):
            caller = client(b"x", b"x" * MEMORY_BYTES, more=True)
            await caller.call(bridge)
            assert caller.status == 507
            assert caller.header[b"content-type"] == b"application/problem+json"
            assert caller.header[b"connection"] == b"close"
            assert caller.whole
        after = client()
        await after.call(bridge)
        assert after.status == 200

    drive(describe, scenario)
    (record,) = [record for record in caplog.records if record.name == "pywatt.wsgi"]
    assert "No space left on device" in record.getMessage()
    assert record.levelname == "ERROR"


def test_a_folder_for_temporary_files_that_is_not_there_is_named(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    pieces = iter([b"x", b"x" * MEMORY_BYTES])

    async def receive() -> Any:
        return {"type": "http.request", "body": next(pieces), "more_body": True}

    with pytest.raises(NotStoredError, match="gone"):
        asyncio.run(receive_body(receive))
