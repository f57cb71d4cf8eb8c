"""The time limits of connections, on a clock that the test moves: nothing here waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pywatt_host.http.server.connection import HttpConnection
from pywatt_host.http.server.serving import Bounds, Serving
from pywatt_host.observability.running_clock import RunningClock
from tests.http.server.answers import Answer, read_answers
from tests.http.server.application import Application
from tests.http.server.connections.case import chunked, get, post, request
from tests.http.server.connections.upgrades import frame, handshake
from tests.http.server.fuzz import Wire
from tests.http.server.serving import Lines, edge_of

BOUNDS = Bounds(header_seconds=4.0, body_seconds=4.0, write_seconds=4.0, keep_alive=4.0)
RATE = 256  # bytes a second that are progress


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until the test moves it."""

    now = 1000.0

    def time(self) -> float:
        return self.now


class SlowWire(Wire):
    """A transport whose client takes no more than the test says."""

    unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent


class Stage:
    """A server without a listener. Its clock ticks four times a second."""

    def __init__(self, loop: Loop, bounds: Bounds) -> None:
        self.loop = loop
        self.app = Application()
        self.lines = Lines()
        self.serving = Serving(edge_of(self.app, self.lines), bounds, loop)
        self.serving.period = 0.25
        self.serving._clock = RunningClock(0.25, loop.time)

    def turns(self, count: int = 8) -> None:
        async def turn() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def wait(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let time pass; `each` is called at each tick."""
        for _ in range(round(seconds * 4)):
            each()
            self.loop.now += 0.25
            self.tick()

    def tick(self) -> None:
        async def tick() -> None:
            self.serving.tick()

        self.loop.run_until_complete(tick())
        self.turns()

    def connect(self) -> Peer:
        """A new connection."""
        wire = SlowWire(self.loop)
        connection = wire.protocol = HttpConnection.of(self.serving)
        connection.connection_made(wire)
        return Peer(self, connection, wire)


class Peer:
    """A client of the stage."""

    def __init__(self, stage: Stage, connection: HttpConnection, wire: SlowWire) -> None:
        self._stage = stage
        self.connection = connection
        self.wire = wire

    def send(self, data: bytes) -> None:
        assert not self.wire.paused, "the server does not read"

        async def send() -> None:
            self.connection.data_received(data)

        self._stage.loop.run_until_complete(send())
        self._stage.turns()

    def send_while_open(self, data: bytes) -> None:
        if not self.over:
            self.send(data)

    @property
    def answers(self) -> list[Answer]:
        return read_answers(bytes(self.wire.written))

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in self.answers]

    @property
    def over(self) -> bool:
        """Whether the server has ended the connection, or its own side of it."""
        return self.wire.closing or self.wire.ended


@pytest.fixture
def stage() -> Iterator[Stage]:
    loop = Loop()
    yield Stage(loop, BOUNDS)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks))
    loop.close()


# The head -----------------------------------------------------------------------------------------------------------


def test_a_connection_without_a_byte_is_closed_without_an_answer(stage: Stage) -> None:
    peer = stage.connect()
    stage.wait(3.75)
    assert not peer.over
    stage.wait(0.5)
    assert peer.over
    assert peer.wire.written == b""
    assert stage.lines.texts == []


def test_a_head_that_takes_too_long_is_408_however_steadily_it_arrives(stage: Stage) -> None:
    peer = stage.connect()
    head = iter(get("/echo", "X-Pad: " + "a" * 10_000)[:-4])
    stage.wait(4.5, lambda: peer.send_while_open(bytes([next(head)])))
    assert peer.statuses == [408]
    assert peer.answers[0].values("connection") == ["close"]
    assert peer.over
    assert stage.lines.texts == ["GET /echo 408 (server.timeouts.header)"]


def test_a_head_within_its_time_is_served_and_the_next_one_has_its_own(stage: Stage) -> None:
    peer = stage.connect()
    for _ in range(3):
        peer.send(get("/echo")[:9])
        stage.wait(3.5)
        peer.send(get("/echo")[9:])
    assert peer.statuses == [200, 200, 200]


def test_a_head_behind_a_request_has_time_once_that_is_answered(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(get("/held") + get("/echo")[:-2])
    stage.wait(20)
    assert not peer.over
    stage.app.released.set()
    stage.turns()
    stage.wait(3.5)
    assert peer.statuses == [200]
    stage.wait(1)
    assert peer.statuses == [200, 408]


# The body -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "passes"), [(RATE * 4, True), (RATE + 16, True), (RATE // 2, False), (4, False)])
def test_a_slow_body_passes_above_the_rate_and_is_408_below_it(stage: Stage, rate: int, passes: bool) -> None:
    peer = stage.connect()
    length = rate * 30
    peer.send(request("POST", "/echo", f"Content-Length: {length}"))
    stage.wait(30, lambda: peer.send_while_open(b"x" * (rate // 4)))
    assert peer.statuses == ([200] if passes else [408])
    assert stage.lines.texts == ["POST /echo 200" if passes else "POST /echo 408 (server.timeouts.body)"]
    assert peer.over is not passes


def test_a_body_that_stops_is_408_after_the_time_without_progress(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(post("/echo", b"x" * 5000)[:-1000])
    stage.wait(3.75)
    assert peer.statuses == []
    stage.wait(0.75)
    assert peer.statuses == [408]
    assert peer.over
    assert stage.lines.texts == ["POST /echo 408 (server.timeouts.body)"]


def test_a_body_in_chunks_that_stops_before_its_last_chunk_is_408(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(chunked("/echo", b"hello", end=b""))
    stage.wait(5)
    assert peer.statuses == [408]


def test_framing_alone_is_no_progress(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(request("POST", "/echo", "Transfer-Encoding: chunked"))
    stage.wait(10, lambda: peer.send_while_open(b"0" * 128))
    assert peer.statuses == [408]


def test_time_in_which_the_server_does_not_read_is_not_held_against_the_client(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(get("/held") + get("/early"))
    assert peer.wire.paused
    stage.wait(20)
    assert not peer.over
    stage.app.released.set()
    stage.turns()
    assert peer.statuses == [200, 200]


def test_a_body_that_the_application_does_not_take_is_not_late(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(request("POST", "/held", "Content-Length: 99000"))
    peer.send(b"x" * 65536)
    peer.send(b"x" * 10)
    assert peer.wire.paused
    stage.wait(20)
    assert peer.statuses == []
    stage.app.released.set()
    stage.turns()
    assert peer.statuses == [200]


def test_a_client_that_waits_for_100_continue_is_not_late(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(request("POST", "/held", "Content-Length: 5", "Expect: 100-continue"))
    stage.wait(20)
    assert peer.statuses == []
    stage.app.released.set()
    stage.turns()
    assert peer.statuses == [200]
    assert peer.answers[0].values("connection") == ["close"]


def test_a_body_that_is_not_read_any_more_ends_the_connection_without_another_answer(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(request("POST", "/early", "Content-Length: 5000"))
    assert peer.statuses == [200]
    stage.wait(5)
    assert peer.statuses == [200]
    assert peer.over
    assert stage.lines.texts == ["POST /early 200"]


# The response -------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_is_cut(stage: Stage) -> None:
    peer = stage.connect()
    peer.connection.pause_writing()
    peer.wire.unsent = 70_000
    peer.send(get("/large"))
    stage.wait(3.5)
    assert not peer.wire.closing
    stage.wait(1.5)
    assert peer.wire.closing
    stage.turns()
    assert [line for line in stage.lines.texts if "server.timeouts.write" in line] == stage.lines.texts != []


@pytest.mark.parametrize(("rate", "passes"), [(RATE * 4, True), (RATE // 2, False)])
def test_a_slow_reader_passes_above_the_rate_and_is_cut_below_it(stage: Stage, rate: int, passes: bool) -> None:
    peer = stage.connect()
    peer.send(get("/held"))
    peer.wire.unsent = 100_000

    def read() -> None:
        peer.wire.unsent -= rate // 4

    stage.wait(30, read)
    assert peer.wire.closing is not passes


# Idle connections, and pauses -----------------------------------------------------------------------------------------


def test_an_idle_connection_is_closed_after_keep_alive_and_a_busy_one_is_not(stage: Stage) -> None:
    idle, busy = stage.connect(), stage.connect()
    idle.send(get("/echo"))
    busy.send(get("/held"))
    stage.wait(3.5)
    assert not idle.over
    stage.wait(1)
    assert idle.over
    assert idle.statuses == [200]
    stage.wait(60)
    assert not busy.over


def test_a_pause_of_the_process_is_not_held_against_any_connection(stage: Stage) -> None:
    fresh, head, body, idle, slow = (stage.connect() for _ in range(5))
    head.send(get("/echo")[:-2])
    body.send(post("/echo", b"hello")[:-1])
    idle.send(get("/echo"))
    slow.send(get("/held"))
    slow.wire.unsent = 1000
    peers: list[Any] = [fresh, head, body, idle, slow]
    stage.loop.now += 3600
    stage.tick()
    assert not any(peer.over for peer in peers)
    stage.wait(3)
    assert not any(peer.over for peer in peers)
    stage.wait(2)
    assert all(peer.over for peer in peers)


def test_lingering_ends_after_two_seconds_even_if_the_client_goes_on(stage: Stage) -> None:
    peer = stage.connect()
    peer.send(request("POST", "/small", "Content-Length: 1000000"))
    assert peer.statuses == [413]
    assert not peer.wire.closing
    stage.wait(1.5, lambda: peer.send(b"x" * 100))
    assert not peer.wire.closing
    stage.wait(1)
    assert peer.wire.closing


# WebSockets ---------------------------------------------------------------------------------------------------------


def websocket(stage: Stage, path: str) -> Peer:
    """A WebSocket that the application has accepted; what is written from here on are frames."""
    peer = stage.connect()
    peer.send(handshake(path))
    assert peer.wire.written.startswith(b"HTTP/1.1 101 ")
    peer.wire.written.clear()
    return peer


def test_a_silent_websocket_is_pinged_and_stays_as_long_as_it_answers(stage: Stage) -> None:
    peer = websocket(stage, "/ws/echo")
    for _ in range(3):
        stage.wait(19.5)
        assert peer.wire.written == b""
        stage.wait(1)
        ping = bytes(peer.wire.written)
        assert ping[:2] == b"\x89\x04"
        peer.wire.written.clear()
        peer.wire.protocol.data_received(frame(ping[2:], 10))
        stage.turns()
        assert not peer.wire.closing


def test_a_websocket_that_does_not_answer_pings_is_closed(stage: Stage) -> None:
    peer = websocket(stage, "/ws/echo")
    stage.wait(39)
    assert not peer.wire.closing
    stage.wait(2)
    assert b"keepalive ping timeout" in peer.wire.written
    assert peer.wire.closing
    stage.turns()
    assert stage.lines.texts == ["WEBSOCKET /ws/echo 101"]


@pytest.mark.parametrize(("rate", "passes"), [(RATE * 4, True), (RATE // 2, False), (0, False)])
def test_a_websocket_whose_client_does_not_read_is_cut(stage: Stage, rate: int, passes: bool) -> None:
    peer = websocket(stage, "/ws/echo")
    peer.wire.unsent = 100_000

    def read() -> None:
        peer.wire.unsent -= rate // 4

    stage.wait(15, read)
    assert peer.wire.closing is not passes
