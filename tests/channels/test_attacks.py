"""What strangers may try on a channel that is listened on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.codec import STRANGER_LIMIT, Frames
from tests.channels.places import Main, Place, framed, good, listening

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
