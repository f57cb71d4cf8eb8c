"""What unknown peers may try, and which of them are admitted."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from pywatt_host.exceptions import BindError, ProtocolError
from pywatt_host.protocol.codec import STRANGER_LIMIT, Frames
from tests.channels.places import Certificates, Link, Main, Place, beats, framed, good, listening

Run = Callable[[Main], None]
MIB = 1024**2
LARGE = b'"' + b"x" * (2 * STRANGER_LIMIT) + b'"'


def raw(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + b"\x01" + payload


def test_little_is_kept_for_a_stranger_and_everything_for_who_was_let_in() -> None:
    with pytest.raises(ProtocolError, match="longer"):
        Frames(16 * MIB, stranger=True).feed(raw(LARGE)[:5])
    frames = Frames(16 * MIB, stranger=True)
    assert frames.feed(raw(b"1")) == [b"1"]
    frames.admit()
    assert frames.feed(raw(LARGE)) == [LARGE]


@pytest.mark.parametrize("cut", [6, 11, 12, 1000, STRANGER_LIMIT + 100])
def test_a_large_frame_right_behind_the_first_one_waits_for_the_verdict(cut: int) -> None:
    octets = raw(b"1") + raw(LARGE)
    let_in = Frames(16 * MIB, stranger=True)
    units = let_in.feed(octets[:cut])
    assert units == [b"1"]
    let_in.admit()
    assert let_in.feed(octets[cut:]) == [LARGE]
    refused = Frames(16 * MIB, stranger=True)
    assert refused.feed(octets[:cut]) == [b"1"]
    with pytest.raises(ProtocolError, match="longer"):
        refused.feed(octets[cut : cut + 20])


def test_the_limit_itself_holds_for_strangers_as_well() -> None:
    with pytest.raises(ProtocolError, match="longer"):
        Frames(MIB, stranger=True).feed(raw(b"1") + (2 * MIB).to_bytes(4, "big") + b"\x01")


def test_a_stranger_that_claims_a_large_frame_is_closed_and_a_peer_may_send_one_at_once(run: Run, place: Place) -> None:
    async def main() -> None:
        async with asyncio.TaskGroup() as tasks, (peers := listening(place.door(), frame=16 * MIB)).running(tasks):
            stranger = await place.open()
            stranger.raw(raw(LARGE)[:5])
            assert await stranger.ended() == b""
            friend = await place.open()
            large = {"op": "nothing", "text": "x" * (2 * STRANGER_LIMIT)}
            friend.raw(framed({"op": "identify", "module_id": "billing"}) + framed(large) + framed({"op": "heartbeat"}))
            assert await friend.hear("heartbeat_ack") is not None
            await good(place)
            assert peers.refused == 0

    run(main)


def test_a_wrong_token_is_refused_with_one_record_and_its_value_is_nowhere(
    run: Run, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        peers = listening(place.door(lambda: ("right-token", "next-token")))
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            for members in (
                {"auth_token": "wrong-token"},
                {},
                {"auth_token": "r\u00efght"},
                {"auth_token": "right-toke"},
            ):
                link = await place.open()
                link.say("identify", module_id="billing", **members)
                link.say("heartbeat")
                assert await link.ended() == b""
            assert (peers.refused, peers.peers) == (4, 0)
            for token in ("right-token", "next-token"):
                link = await place.open()
                link.say("identify", module_id="billing", auth_token=token)
                link.say("heartbeat")
                assert await link.hear("heartbeat_ack") == {"op": "heartbeat_ack"}
                await link.close()

    run(main)
    refused = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(refused) == 4
    assert all("channels.tcp.token" in each.getMessage() and each.exc_info is None for each in refused)
    assert "-token" not in caplog.text.replace("channels.tcp.token", "")


def test_peers_that_connect_again_and_again_log_no_more_than_one_that_stays(
    run: Run, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place("ipc", folder, None)

    async def main() -> None:
        peers = listening(place.door(lambda: ("token",)))
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            for _ in range(103):
                link = await place.open()
                link.raw(framed(b"{nonsense") + framed({"op": "heartbeat"}))
                assert await link.ended() == b""
            assert peers.refused == 103

    run(main)
    found = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(found) == 101
    assert found[0].startswith("a peer on ipc sent data that is not part of the protocol: ")
    assert found[1] == "a peer on ipc was refused: heartbeat before identify"
    assert found[-1] == "a peer on ipc: 106 more such records"


def test_an_answer_before_identify_is_dropped(run: Run, folder: Path) -> None:
    place = Place("ipc", folder, None)

    async def main() -> None:
        peers = listening(place.door())
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            link = await place.open()
            link.say("heartbeat_ack")
            link.say("identify", module_id="x")
            await beats(link)
            assert (peers.refused, peers.peers) == (0, 1)

    run(main)


# Listeners ----------------------------------------------------------------------------------------------------------


def test_a_client_of_another_authority_or_none_is_not_let_in(
    run: Run, folder: Path, certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place("mtls", folder, certificates)

    async def beat_over(context: ssl.SSLContext | None) -> None:
        link = Link(*await asyncio.open_connection("127.0.0.1", place.port, ssl=context))
        link.say("identify", module_id="x")
        await beats(link)

    async def main() -> None:
        peers = listening(place.door(), timeout=2.0)
        async with asyncio.TaskGroup() as tasks, peers.running(tasks):
            for context in (certificates.client(own=False), None):
                with pytest.raises((OSError, asyncio.IncompleteReadError)):
                    await beat_over(context)
            with pytest.raises(OSError, match=r"(?i)verif"):
                await asyncio.open_connection(
                    "127.0.0.1", place.port, ssl=certificates.client(own=True, ca="other.pem")
                )
            await good(place)
            assert peers.peers == 1

    run(main)
    place.leave()
    assert not any(each.exc_info for each in caplog.records)


def test_a_socket_has_the_mode_that_was_asked_for_and_takes_the_place_of_a_stale_one(run: Run, folder: Path) -> None:
    place = Place("ipc", folder, None)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(place.path))

    async def main() -> None:
        for mode in (0o600, 0o660):
            peers = listening(place.door(mode=mode))
            async with asyncio.TaskGroup() as tasks, peers.running(tasks):
                assert stat.S_IMODE(place.path.stat().st_mode) == mode
                await good(place)
                with pytest.raises(BindError, match="in use"):
                    place.door()
                await good(place)
            assert not place.path.exists()
        place.path.write_text("mine")
        with pytest.raises(BindError, match="exists and is not a socket"):
            place.door()
        assert place.path.read_text() == "mine"

    run(main)
