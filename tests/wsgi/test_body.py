"""`wsgi.input`: reads like a file, waits for what has not come yet, and never asks for more than it needs."""

import asyncio
import io
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.wsgi.body import RequestBody

SIZES = st.one_of(st.none(), st.integers(-1, 12))
CALLS = st.lists(st.tuples(st.sampled_from(["read", "readline", "readlines", "next"]), SIZES), max_size=12)
PIECES = st.lists(st.text("ab\n", min_size=1, max_size=6).map(str.encode), max_size=6)


@given(first=st.text("ab\n", max_size=6).map(str.encode), pieces=PIECES, calls=CALLS)
def test_it_reads_like_bytes_io_however_the_body_is_cut(first: Any, pieces: Any, calls: Any) -> None:
    coming = iter([*pieces, b""])
    body = RequestBody(first, False, lambda: next(coming))
    file = io.BytesIO(first + b"".join(pieces))
    for name, size in calls:
        if name == "next":
            assert next(body, b"end") == next(file, b"end")
        else:
            assert getattr(body, name)(size) == getattr(file, name)(size)
    assert body.read() == file.read()
    assert body.read() == body.readline() == b""
    assert body.readlines() == list(body) == []


def test_it_takes_no_more_than_a_read_needs() -> None:
    coming = iter([b"line\nmo", b"re\n"])
    body = RequestBody(b"", False, lambda: next(coming))
    assert body.readline() == b"line\n"
    assert next(coming) == b"re\n"


def echo(environ: Any, start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body]


def test_a_body_in_many_pieces_arrives_whole(answer: Any) -> None:
    pieces = [bytes([n]) * 30_000 for n in range(40)]
    assert answer(echo, *pieces, method="POST").body == b"".join(pieces)


def test_reading_where_no_body_was_announced_ends_at_once(answer: Any) -> None:
    assert answer(echo).body == b""


def test_a_body_of_http_2_needs_no_announcement(answer: Any) -> None:
    assert answer(echo, b"a", b"b", http_version="2", headers=[("content-length", "2")]).body == b"ab"
    caller = answer(echo, b"ab", http_version="2", headers=[("te", "trailers")])
    assert caller.body == b"ab"


def test_an_app_that_is_asked_for_100_continue_is_called_before_the_body_is_there_and_reads_as_it_comes(
    drive: Any, client: Any, happened: Any
) -> None:
    got = [threading.Event(), threading.Event()]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read(3) == b"one"
        got[0].set()
        assert environ["wsgi.input"].readline() == b"two\n"
        got[1].set()
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    async def scenario(bridge: Any) -> None:
        caller = client(b"one", more=True, asking=True)
        task = asyncio.create_task(caller.call(bridge))
        await happened(got[0])
        caller.upload(b"two\n")
        await happened(got[1])
        caller.upload(b"", more=False)
        await task
        assert caller.body == b""

    drive(app, scenario)


def test_a_body_that_is_whole_in_its_first_message_costs_no_further_receive(drive: Any, client: Any) -> None:
    async def scenario(bridge: Any) -> None:
        caller = client(b"all of it")
        await caller.call(bridge)
        assert (caller.body, caller.received) == (b"all of it", 1)

    drive(echo, scenario)


def test_an_app_that_does_not_read_holds_the_upload_back(drive: Any, client: Any, happened: Any) -> None:
    go = threading.Event()
    reading = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        first = environ["wsgi.input"].read(1)
        reading.set()
        assert go.wait(10)
        rest = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return [first + rest]

    async def scenario(bridge: Any) -> None:
        piece = b"x" * 10_000
        caller = client(b"", *[piece] * 100, asking=True)
        task = asyncio.create_task(caller.call(bridge))
        await happened(reading)
        for _ in range(100):  # let the bridge take in all it wants to
            await asyncio.sleep(0)
        assert caller.received < 12
        go.set()
        await task
        assert len(caller.body) == 1_000_000

    drive(app, scenario)


def test_100_continue_is_left_to_the_app_to_bring_about(drive: Any, client: Any) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("413 Content Too Large", [])
        return [b"no"]

    async def scenario(bridge: Any) -> None:
        caller = client(b"x" * 10, headers=[("expect", "100-continue"), ("content-length", "10")])
        await caller.call(bridge)
        assert (caller.status, caller.received) == (413, 0)

    drive(app, scenario)


@pytest.mark.parametrize("read", ["read", "readline", "readlines", "__next__"])
def test_a_client_that_goes_away_while_the_app_reads_is_an_os_error(
    drive: Any, client: Any, happened: Any, read: Any
) -> None:
    raised: list[BaseException] = []
    reading = threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert environ["wsgi.input"].read(4) == b"some"
        reading.set()
        try:
            getattr(environ["wsgi.input"], read)()
        except OSError as exc:
            raised.append(exc)
            raise
        return []

    async def scenario(bridge: Any) -> None:
        caller = client(b"some", more=True, asking=True)
        task = asyncio.create_task(caller.call(bridge))
        await happened(reading)
        caller.disconnect()
        await task
        assert caller.sent == []

    drive(app, scenario)
    assert isinstance(raised[0], ConnectionError)


def test_a_client_gone_before_its_body_came_costs_no_thread(drive: Any, client: Any) -> None:
    async def scenario(bridge: Any) -> None:
        caller = client(more=True)
        caller.uploads.get_nowait()
        caller.disconnect()
        await caller.call(bridge)
        assert caller.sent == []

    drive(lambda environ, start_response: pytest.fail("the app was called"), scenario)


def test_an_error_of_receive_ends_the_request_with_that_error(drive: Any, client: Any, happened: Any) -> None:
    """A limit on the body, say, which the edge raises while the application reads."""
    reading, told = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        reading.set()
        with pytest.raises(ConnectionError):
            environ["wsgi.input"].read()
        told.set()
        return []

    async def scenario(bridge: Any) -> None:
        caller = client(b"x", more=True, asking=True)
        release = asyncio.Event()

        async def receive() -> Any:
            if caller.received:
                await release.wait()
                raise ValueError("body too large")
            return await caller.receive()

        task = asyncio.create_task(bridge(caller.scope, receive, caller.send))
        await happened(reading)
        release.set()
        with pytest.raises(ValueError, match="body too large"):
            await task
        await happened(told)

    drive(app, scenario)
