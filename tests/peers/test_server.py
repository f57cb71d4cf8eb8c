"""Peers that are slow, silent, in a hurry, or speak something else: each costs little, and nobody else anything."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest

from pywatt_host.exceptions import MessagingError
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Payload
from tests.channels.places import FRAME, Main, Place, beats, framed, good, listening, until
from tests.hosting import PATIENCE

Run = Callable[[Main], None]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not any(each.exc_info for each in caplog.records)
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_who_does_not_identify_itself_in_time_is_closed(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peers = listening(place.door(), timeout=0.2)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await place.open()
            link.raw(framed({"op": "identify", "module_id": "x"})[:-1])
            assert await link.ended() == b""
            assert peers.refused == 1

    run(main)
    assert [each for each in warnings(caplog) if "channels.limits.handshake" in each]


@pytest.mark.parametrize(
    ("first", "why"),
    [
        ({"op": "heartbeat"}, "heartbeat before identify"),
        ({"op": "route_to_module", "target_module_id": "users", "request_id": "1", "payload": {"data": []}}, "before"),
        ({"op": "identify", "module_id": ""}, "module_id"),
        ({"op": "identify", "module_id": "x" * 129}, "module_id"),
    ],
)
def test_who_begins_otherwise_is_closed(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture, first: dict[str, Any], why: str
) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await place.open()
            link.raw(framed(first))
            assert await link.ended() == b""
            await good(place)

    run(main)
    (warning,) = warnings(caplog)
    assert why in warning
    assert "\x1b" not in warning
    assert len(warning) < 200


def test_what_nobody_knows_is_passed_over_also_before_identify(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await place.open()
            for _ in range(3):
                link.say("ev\x1bil" * 100)
            link.say("identify", module_id="x")
            await beats(link)

    with caplog.at_level(logging.DEBUG, "pywatt.channels"):
        run(main)
    (record,) = [each for each in caplog.records if "ignored here" in each.getMessage()]
    assert record.levelno == logging.DEBUG
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 150


def test_seventy_that_say_nothing_keep_others_out_only_while_they_are_there(run: Run, place: Place) -> None:
    async def main() -> None:
        peers = listening(place.door(), timeout=2.0)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            early = await good(place)
            silent = [await asyncio.to_thread(connected, place) for _ in range(70)]
            await until(lambda: peers.refused >= 70 - 64)
            await beats(early)
            for sock in silent:
                sock.close()
            for _ in range(100):  # with TLS they count until the time of their handshake is over
                try:
                    late = await good(place)
                    break
                except (OSError, asyncio.IncompleteReadError):
                    await asyncio.sleep(0.1)
            await beats(late)
            await beats(early)
            assert peers.peers == 2

    run(main)


def test_one_too_many_is_closed_at_once(run: Run, place: Place) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            silent = [await asyncio.to_thread(connected, place) for _ in range(64)]
            try:
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await good(place)
            finally:
                for sock in silent:
                    sock.close()

    run(main)


def connected(place: Place) -> socket.socket:
    """A connection without a word, not even of TLS."""
    if place.kind != "ipc":
        return socket.create_connection(("127.0.0.1", place.port), PATIENCE)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    sock.connect(str(place.path))
    return sock


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (framed(b" " * (FRAME + 1)), "a message is longer than 256KiB (channels.limits.frame)"),
        (b"\xff\xff\xff\xff\x01", "longer than 256KiB"),
        (framed({"op": "heartbeat"}, format=0), "0 JSON, 1 msgpack"),
        (framed({"op": "heartbeat"}, format=2), "binary"),
        (framed({"op": "heartbeat"}, format=9), "format 9"),
    ],
)
def test_a_stream_that_cannot_go_on_closes_its_own_channel_with_one_line(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture, octets: bytes, why: str
) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            other, link = await good(place), await good(place, "evil")
            link.raw(octets)
            await link.ended()
            await beats(other)
            await until(lambda: peers.peers == 1)

    run(main)
    (warning,) = warnings(caplog)
    assert why in warning
    assert f"evil on {place.channel}" in warning


def test_what_is_not_the_protocol_is_logged_and_the_channel_stays(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await good(place, "evil\x1b")
            for garbage in (b"{nonsense", b"", b"[]", b'{"op": 1}', b'{"op":"x","op":"y"}', b"\x1b[31m" * 1000):
                link.raw(framed(garbage))
            link.raw(framed(b'{"op":"route_to_module"}'))
            await beats(link)

    run(main)
    found = warnings(caplog)
    assert len(found) == 7
    assert all(
        each.startswith(rf"evil\x1b on {place.channel} sent data that is not part of the protocol: ") for each in found
    )
    assert all(len(each) < 500 and each.isprintable() for each in found)


def test_a_peer_that_leaves_in_the_middle_of_a_frame_is_gone(run: Run, place: Place) -> None:
    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            other, link = await good(place), await good(place)
            link.raw(framed({"op": "heartbeat"})[:9])
            await asyncio.sleep(0)
            if link.writer.can_write_eof():
                link.writer.write_eof()
            else:  # TLS has no half of a connection
                link.writer.close()
            assert await link.ended() == b""
            await until(lambda: peers.peers == 1)
            await beats(other)

    run(main)


def test_a_peer_that_does_not_read_blocks_nobody_and_is_refused_more_above_its_bound(
    run: Run, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, most = 4 * 1024**2, 16 * 1024**2
    monkeypatch.setattr("pywatt_host.channels.wire.MAX_BUFFERED", most)

    async def main() -> None:
        asked: list[PeerConnection] = []
        peers = listening(place.door(), message=lambda message, connection: asked.append(connection), frame=2 * frame)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            slow, other = await good(place, "slow"), await good(place)
            slow.reader._transport.pause_reading()  # type: ignore[attr-defined]
            slow.say("route_to_module", target_module_id="users", request_id="1", payload={"json": {}})
            await until(lambda: bool(asked))
            (connection,) = asked
            answer = RoutedResponse("users", "1", Payload(bytes(frame // 2), "Binary"))  # "0," each
            sent = 0
            for _ in range(4):  # TLS has buffers of its own below, which take as much once
                with pytest.raises(MessagingError, match="does not read") as caught:  # noqa: PT012 -- how many is the point
                    while sent < 40:
                        connection.session.send(answer)
                        sent += 1
                assert caught.value.code == "unavailable"
                await beats(other)
            assert 3 <= sent < 20
            assert connection.wire.buffered <= most
            connection.send(answer)  # is dropped
            await beats(other)
            waiting = asyncio.ensure_future(connection.session.drained())
            await beats(other)
            assert not waiting.done()
            slow.reader._transport.resume_reading()  # type: ignore[attr-defined]
            for _ in range(sent):
                assert len((await slow.hear("routed_module_response"))["payload"]["data"]) == frame // 2
            async with asyncio.timeout(PATIENCE):
                await waiting
            await beats(slow)

    run(main)


def test_many_at_once_from_one_peer_come_in_order(run: Run, place: Place) -> None:
    async def main() -> None:
        seen: list[str] = []

        def note(message: RouteToModule, connection: PeerConnection) -> None:
            seen.append(message.request_id)

        peers = listening(place.door(), message=note)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await place.open()
            everything = framed({"identify": "old shape"})
            for n in range(2000):
                payload = {"data": [110, 117, 108, 108]}
                content = {
                    "op": "route_to_module",
                    "target_module_id": "users",
                    "request_id": str(n),
                    "payload": payload,
                }
                everything += framed({"id": "x", "content": content, "metadata": {}})
            link.raw(everything)
            await beats(link)
            assert seen == [str(n) for n in range(2000)]

    run(main)
