"""One connection: back-pressure both ways, and an end that is told exactly once."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.channels.stdio import Descriptors, Handshake, open_stdio
from pywatt_host.channels.wire import Wire
from pywatt_host.exceptions import ChannelError, HostError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.protocol.codec import Frames, Lines, frame, line
from pywatt_host.protocol.messages import Heartbeat, Identify, Init, Received
from pywatt_host.protocol.session import Session
from tests.channels.places import FRAME, Link, Main, Orchestrator, Place, descriptors, listening, until, uplink
from tests.hosting import PATIENCE

Run = Callable[[Main], None]


class Ends:
    """Both ends of a connection: a wire, and a foreign one. `received` and `ended` are what the wire told."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.ended: list[HostError | None] = []
        self.over = asyncio.Event()
        self.wire = Wire("ipc", Frames(FRAME), self.received.append, self._ended)

    def _ended(self, why: HostError | None) -> None:
        self.ended.append(why)
        self.over.set()

    async def over_in_time(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.over.wait()


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[tuple[Ends, Link]]:
    accepted: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await place.serve(accepted.set_result)
    ends = Ends()
    await place.target.connect(lambda: ends.wire)
    async with asyncio.timeout(PATIENCE):
        link = await accepted
    try:
        yield ends, link
    finally:
        server.close()
        ends.wire.end(None, abort=True)
        link.abort()


WAYS: dict[str, Callable[[Ends, Link], Any]] = {
    "close": lambda ends, link: ends.wire.close(),
    "end": lambda ends, link: ends.wire.end(ChannelError("ipc", "", "for a reason")),
    "abort": lambda ends, link: ends.wire.end(ChannelError("ipc", "", "for a reason"), abort=True),
    "peer closes": lambda ends, link: link.writer.close(),
    "peer aborts": lambda ends, link: link.abort(),
    "garbage": lambda ends, link: ends.wire.data_received(b"\0\0\0\0\0"),
    "lost": lambda ends, link: ends.wire.connection_lost(OSError("broken")),
}


def test_the_end_is_told_once_whatever_comes_first(run: Run, folder: Path) -> None:
    async def main() -> None:
        for order, between in itertools.product(itertools.permutations(WAYS, 2), (0, 3)):
            async with connected(Place("ipc", folder, None)) as (ends, link):
                for way in order:
                    WAYS[way](ends, link)
                    for _ in range(between):
                        await asyncio.sleep(0)
                await ends.over_in_time()
                WAYS[order[0]](ends, link)
                await asyncio.sleep(0.001)
                assert len(ends.ended) == 1, order
                assert ends.wire.closing, order
                with pytest.raises(ChannelError, match="closed"):
                    ends.wire.write(b"x")
                async with asyncio.timeout(PATIENCE):
                    await ends.wire.drained()

    run(main)


@pytest.mark.parametrize("way", ["close", "end", "abort", "peer closes", "peer aborts"])
def test_after_the_end_nothing_is_written_or_received(run: Run, place: Place, way: str) -> None:
    async def main() -> None:
        async with connected(place) as (ends, link):
            link.say("heartbeat")
            await until(lambda: bool(ends.received))
            WAYS[way](ends, link)
            if not way.startswith("peer"):
                with pytest.raises(ChannelError, match="closed"):
                    ends.wire.write(frame(Heartbeat(), frozenset()))
            await ends.over_in_time()
            with pytest.raises(ChannelError, match="closed"):
                ends.wire.write(frame(Heartbeat(), frozenset()))
            assert ends.received == [Heartbeat()]
            if not way.startswith("peer"):
                assert await link.ended() == b""
            assert len(ends.ended) == 1

    run(main)


def test_closing_sends_first_what_waits(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connected(place) as (ends, link):
            ends.wire.write(b"x" * 3_000_000)
            ends.wire.close()
            assert len(await link.ended()) == 3_000_000
            await ends.over_in_time()
            assert ends.ended == [None]

    run(main)


def test_who_writes_much_waits_until_the_peer_has_read(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connected(place) as (ends, link):
            link.reader._transport.pause_reading()  # type: ignore[attr-defined]
            wrote = 0
            waiting: asyncio.Future[None] | None = None
            while waiting is None or waiting.done():  # TLS has a buffer below its own, and the kernel has some
                ends.wire.write(bytes(500_000))
                wrote += 500_000
                assert wrote < 60_000_000
                waiting = asyncio.ensure_future(ends.wire.drained())
                await asyncio.wait([waiting], timeout=0.02)
            link.reader._transport.resume_reading()  # type: ignore[attr-defined]
            async with asyncio.timeout(PATIENCE):
                await link.reader.readexactly(wrote)
                await waiting
            assert ends.wire.buffered == 0

    run(main)


def test_who_waits_for_a_peer_that_dies_is_woken(run: Run, place: Place) -> None:
    async def main() -> None:
        async with connected(place) as (ends, link):
            link.reader._transport.pause_reading()  # type: ignore[attr-defined]
            session = Session("peer", ends.wire, frame)
            ends.wire._ended = lambda why: session.close(why or ChannelError("ipc", "", "gone"))
            for _ in range(4):  # TLS has a buffer below its own
                ends.wire.write(bytes(15_000_000))
                await asyncio.sleep(0.02)
            waiting = asyncio.ensure_future(session.drained())
            await asyncio.sleep(0)
            assert not waiting.done()
            link.abort()
            with pytest.raises(ChannelError):
                async with asyncio.timeout(PATIENCE):
                    await waiting

    run(main)


def test_what_was_refused_before_it_was_open_is_closed_as_soon_as_it_is(run: Run, place: Place) -> None:
    async def main() -> None:
        server = await place.serve(lambda link: None)
        ends = Ends()

        def make() -> Wire:
            ends.wire.end(ChannelError("ipc", "", "one too many"))
            return ends.wire

        try:
            await place.target.connect(make)
        except OSError:
            pass  # it was closed before the loop took it for open
        assert ends.wire.transport.is_closing()
        assert len(ends.ended) == 1
        await asyncio.sleep(0.05)  # the server takes it, and learns that it is closed
        server.close()

    run(main)


@pytest.mark.parametrize("way", ["reader closes", "writer closes", "both", "we close"])
def test_of_two_pipes_the_end_of_one_ends_the_other(run: Run, way: str) -> None:
    async def main() -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        received: list[Received] = []
        ended: list[HostError | None] = []
        wire = Wire("stdio", Lines(FRAME), received.append, ended.append)
        await open_stdio(
            Handshake(Init("", "users"), b'{"op":"heartbeat"}\n{"op":', Descriptors(ours_in, ours_out)), wire
        )
        os.write(theirs_out, b'"shutdown"}\n')
        await until(lambda: len(received) == 2)
        wire.write(line(Heartbeat(), frozenset()))
        await until(lambda: wire.buffered == 0)
        assert os.read(theirs_in, 100) == b'{"op":"heartbeat"}\n'
        if way in ("writer closes", "both"):
            os.close(theirs_out)
        if way in ("reader closes", "both"):
            os.close(theirs_in)
            wire.write(line(Heartbeat(), frozenset()))  # without which uvloop does not see it
        if way == "we close":
            wire.close()
        await until(lambda: bool(ended))
        await until(lambda: gone(ours_in) and gone(ours_out))
        assert len(ended) == 1
        for fd, closed in ((theirs_out, ("writer closes", "both")), (theirs_in, ("reader closes", "both"))):
            if way not in closed:
                os.close(fd)

    run(main)


def test_one_socket_for_both_directions_loses_nothing(run: Run) -> None:
    """As two pipes, the event loop would read from the writing end too, and drop what it reads there."""

    async def main() -> None:
        ours, theirs = socket.socketpair()
        received: list[Received] = []
        ended: list[HostError | None] = []
        wire = Wire("stdio", Lines(FRAME), received.append, ended.append)
        await open_stdio(Handshake(Init("", "users"), b"", Descriptors(os.dup(ours.fileno()), ours.detach())), wire)
        for number in range(40):
            theirs.sendall(b'{"op":"heartbeat"}\n')
            wire.write(line(Heartbeat(), frozenset()))
            await until(lambda number=number: len(received) == number + 1)  # type: ignore[misc]
        theirs.close()
        await until(lambda: bool(ended))

    run(main)


def gone(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def test_a_thousand_connections_leave_nothing_behind(run: Run, folder: Path) -> None:
    place = Place("ipc", folder, None)

    async def main() -> None:
        peers = listening(place.door())
        met: weakref.WeakSet[PeerConnection] = weakref.WeakSet()
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            await connect(met)
            gc.collect()
            before = descriptors()
            for _ in range(50):
                await asyncio.gather(*(connect(met) for _ in range(20)))
            await until(lambda: peers.peers == 0)
            await asyncio.sleep(0.01)
            gc.collect()
            assert len(met) == 0
            assert [each for each in gc.get_objects() if type(each) in (Wire, Session)] == []
            assert descriptors() <= before
            assert peers.refused == 0

    async def connect(met: weakref.WeakSet[PeerConnection]) -> None:
        over, known = asyncio.Event(), asyncio.Event()
        connection = PeerConnection(
            "ipc", "x", Frames(FRAME), frame, {Identify: lambda *_: known.set()}, lambda *_: over.set(), limit=FRAME
        )
        met.add(connection)
        await place.target.connect(lambda: connection.wire)
        connection.session.send(Identify("x", None, ("health",)))
        await known.wait()
        with pytest.raises(HostError):
            await connection.session.request(Heartbeat(), 0)
        connection.close()
        await over.wait()

    run(main)


def _wires() -> int:
    gc.collect()
    return len([each for each in gc.get_objects() if type(each) is Wire])


def test_many_reconnections_leave_nothing_behind(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr("pywatt_host.peers.reconnecting._FIRST_RETRY_DELAY", 0.001)
    monkeypatch.setattr("pywatt_host.peers.reconnecting._LAST_RETRY_DELAY", 0.001)
    monkeypatch.setattr("pywatt_host.peers.reconnecting._IDENTIFY_ANSWER_TIMEOUT", 0.001)
    place = Place("ipc", folder, None)

    async def main() -> None:
        foreign = Orchestrator(place)
        await foreign.open()
        connector = Connector(place.target, lambda: None, required=True)
        way = uplink(connector)
        async with asyncio.TaskGroup() as tasks, way.running(tasks):
            for _ in range(100):
                link = await foreign.accepted()
                await link.close()
            foreign.links.clear()
            await foreign.accepted()
            await way.available(PATIENCE)
            await until(lambda: _wires() == 1)  # the ends of the last ones are about to be told
        await foreign.die()

    run(main)
