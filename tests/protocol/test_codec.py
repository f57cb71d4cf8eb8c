"""Bytes to units and back: any chunking, limits that hold before anything is kept, formats."""

from __future__ import annotations

import json
import re
import time
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol import codec
from pywatt_host.protocol.codec import Decoder, EnvelopeFrames, Frames, Ids, Lines
from pywatt_host.protocol.messages import GetSecret, RouteToModule, Shutdown
from pywatt_host.protocol.payload import Payload
from tests.protocol import cases, shapes

MIB = 1024**2
BYTE_CASES = cases.byte_cases()
NONE: frozenset[str] = frozenset()


def all_of(decoder: Decoder, pieces: Iterable[bytes]) -> list[bytes]:
    return [unit for piece in pieces for unit in decoder.feed(piece)]


def raw(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case["hex"]) if "hex" in case else str(case["bytes"]).encode()


def framed(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + b"\x01" + payload


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "byte by byte"])
@pytest.mark.parametrize(
    ("framing", "case"),
    [(framing, case) for framing in ("lines", "frames") for case in BYTE_CASES[framing]],
    ids=lambda value: value["why"] if isinstance(value, dict) else value,
)
def test_a_stream_gives_these_units_or_this_error(framing: str, case: dict[str, Any], whole: bool) -> None:
    limit = case.get("limit", 16 * MIB)
    decoder: Decoder = Lines(limit) if framing == "lines" else Frames(limit)
    pieces = [raw(case)] if whole else [bytes([byte]) for byte in raw(case)]
    if "error" not in case:
        assert all_of(decoder, pieces) == [unit.encode() for unit in case["units"]]
        return
    with pytest.raises(ProtocolError) as caught:
        all_of(decoder, pieces)
    assert caught.value.code == case["error"]
    assert case.get("text", "") in str(caught.value)


@given(st.data(), st.lists(shapes.messages, max_size=4), shapes.extension_sets)
def test_lines_come_out_as_they_went_in_under_any_chunking(data: st.DataObject, sent: Any, agreed: Any) -> None:
    lines = [codec.line(message, agreed) for message in sent]
    units = all_of(Lines(MIB), data.draw(shapes.cuts(b"".join(lines))))
    assert units == [line[:-1] for line in lines]
    assert [codec.read(unit) for unit in units] == [codec.read(line) for line in lines]


@given(st.data(), st.lists(shapes.messages, max_size=4), shapes.extension_sets, st.booleans())
def test_frames_come_out_as_they_went_in_under_any_chunking(
    data: st.DataObject, sent: Any, agreed: Any, wrapped: bool
) -> None:
    encode = EnvelopeFrames() if wrapped else codec.frame
    frames = [encode(message, agreed) for message in sent]
    units = all_of(Frames(MIB), data.draw(shapes.cuts(b"".join(frames))))
    assert units == [frame[5:] for frame in frames]
    assert [codec.read(unit) for unit in units] == [codec.read(codec.line(message, agreed)) for message in sent]


@given(st.data(), st.lists(st.binary(max_size=12) | st.sampled_from([b"\n", b"\r\n", b"\xe2\x80\xa8"]), max_size=12))
def test_any_bytes_give_the_same_lines_under_any_chunking(data: st.DataObject, parts: list[bytes]) -> None:
    encoded = b"".join(parts)
    expected = [line for line in re.split(b"\n", encoded)[:-1] if line.strip(b" \t\r\x0b\x0c")]
    assert all_of(Lines(MIB), data.draw(shapes.cuts(encoded))) == expected


@given(st.data(), st.binary(max_size=64), st.integers(0, 16))
def test_any_bytes_as_frames_give_units_or_an_error_whatever_the_chunking(
    data: st.DataObject, encoded: bytes, limit: int
) -> None:
    def outcome(pieces: Iterable[bytes]) -> tuple[list[bytes], str]:
        decoder, units = Frames(limit), list[bytes]()
        try:
            for piece in pieces:
                units += decoder.feed(piece)
        except ProtocolError as error:
            return units, error.code
        return units, ""

    # What came in the same piece as the fault is lost with the connection: the end is the same, and what came before.
    one_by_one = outcome(bytes([byte]) for byte in encoded)
    drawn = outcome(data.draw(shapes.cuts(encoded)))
    assert drawn[1] == one_by_one[1]
    assert drawn[0] == one_by_one[0][: len(drawn[0])]
    if not drawn[1]:
        assert drawn[0] == one_by_one[0]


@pytest.mark.parametrize("claimed", [16 * MIB + 1, 2**31, 2**32 - 1])
def test_a_header_that_claims_much_is_refused_without_making_room_for_it(claimed: int) -> None:
    decoder = Frames(16 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="longer than 16MiB"):
            decoder.feed(claimed.to_bytes(4, "big") + b"\x01")
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024
    finally:
        tracemalloc.stop()


def test_a_header_that_claims_what_is_allowed_makes_no_room_before_it_has_come() -> None:
    decoder = Frames(16 * MIB)
    tracemalloc.start()
    try:
        assert decoder.feed((16 * MIB).to_bytes(4, "big") + b"\x01") == []
        assert decoder.feed(b"{" * 1000) == []
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("decoder", [Lines(MIB), Frames(MIB)], ids=["lines", "frames"])
def test_an_endless_unit_costs_no_more_memory_than_its_limit(decoder: Decoder) -> None:
    # Two bytes at a time: as objects of their own they would cost forty times their length.
    decoder.feed(b"" if isinstance(decoder, Lines) else MIB.to_bytes(4, "big") + b"\x01")
    pieces = [bytes([65 + number % 26, 66]) for number in range(26)]
    tracemalloc.start()
    try:
        for number in range(100_000):
            decoder.feed(pieces[number % 26] + b"")
        assert tracemalloc.get_traced_memory()[1] < 4 * 200_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("framing", ["lines", "frames"])
def test_a_mebibyte_byte_by_byte_takes_time_in_proportion(framing: str) -> None:
    text = json.dumps({"op": "secret", "name": "A", "value": "v" * (MIB - 100)}).encode()
    decoder: Decoder = Lines(MIB) if framing == "lines" else Frames(MIB)
    encoded = text + b"\n" if framing == "lines" else framed(text)
    started = time.process_time()
    units = all_of(decoder, (encoded[at : at + 1] for at in range(len(encoded))))
    assert units == [text]
    assert time.process_time() - started < 10  # about 0.2 s; in proportion to the square it would be minutes


def test_an_over_long_line_is_refused_before_its_end_and_names_the_key() -> None:
    decoder = Lines(MIB)
    for _ in range(16):
        assert decoder.feed(b"x" * (MIB // 16)) == []
    with pytest.raises(ProtocolError, match=re.escape("a message is longer than 1MiB (channels.limits.frame)")):
        decoder.feed(b"x")


def test_a_limit_is_of_the_line_and_not_of_what_came_at_once() -> None:
    assert all_of(Lines(8), [b"12345678\n" * 1000]) == [b"12345678"] * 1000
    assert all_of(Frames(8), [framed(b"12345678") * 1000]) == [b"12345678"] * 1000


def test_text_with_line_ends_of_unicode_survives_as_line_and_frame() -> None:
    message = RouteToModule("a", "", "1", Payload.of({"type": "t", "text": "a\u2028b\u2029c\x85d\x0be\r\nf"}))
    agreed = frozenset({"inline_payload"})
    (unit,) = Lines(MIB).feed(codec.line(message, agreed))
    assert codec.read(unit) == message
    (unit,) = Frames(MIB).feed(codec.frame(message, agreed))
    assert codec.read(unit) == message


def test_envelopes_of_a_module_have_each_their_own_uuid() -> None:
    encode = EnvelopeFrames()
    units = Frames(MIB).feed(b"".join(encode(GetSecret(name), NONE) for name in "abc"))
    envelopes = [json.loads(unit) for unit in units]
    assert len({envelope["id"] for envelope in envelopes}) == 3
    for envelope in envelopes:
        assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", envelope["id"])
        assert envelope["metadata"] == {}
        assert envelope["content"]["op"] == "get_secret"


def test_ids_of_two_makers_differ() -> None:
    first, second = Ids(), Ids()
    assert len({maker() for maker in (first, second) for _ in range(1000)}) == 2000


@pytest.mark.parametrize("encode", [codec.line, codec.frame, EnvelopeFrames()], ids=["line", "frame", "envelope"])
@pytest.mark.parametrize(
    "content",
    [object(), {1: 2}, {"a": "\ud800"}, 2**64, {"a": {1}}],
    ids=["object", "number for a name", "surrogate", "large number", "set"],
)
def test_what_has_no_json_form_is_refused_by_name_before_it_is_sent(encode: Any, content: Any) -> None:
    message = RouteToModule("a", "", "1", Payload.of(content))
    for agreed in (NONE, frozenset({"inline_payload"})):
        with pytest.raises(ProtocolError, match="the content cannot be written as JSON") as caught:
            encode(message, agreed)
        assert caught.value.code == "json"


def test_both_framings_of_the_shortest_operation() -> None:
    assert codec.line(Shutdown(), NONE) == b'{"op":"shutdown"}\n'
    assert codec.frame(Shutdown(), NONE) == b'\x00\x00\x00\x11\x01{"op":"shutdown"}'
