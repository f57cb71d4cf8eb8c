"""Byte ranges (RFC 9110 section 14): which parts of a file a client asks for, and the response that contains them."""

from __future__ import annotations

import re
from secrets import token_hex
from typing import NamedTuple, TypeAlias

Part: TypeAlias = tuple[int, int]  # the first byte, and the byte after the last one

_RANGE = re.compile(rb"([0-9]*)-([0-9]*)")
_MOST_DIGITS = 18  # a longer number is beyond the end of every file, and slow to convert
_MOST_RANGES = 100


def parse_ranges(header: bytes, size: int) -> list[Part] | None:
    """The parts of `size` bytes that a Range header asks for, in order; adjacent and overlapping ones are one.

    None where the header is to be ignored: another unit, a malformed list, too many ranges, or a suffix of an empty
    file. An empty list where it is well-formed and no range can be satisfied: the response is 416.
    """
    unit, _, listed = header.partition(b"=")
    ranges = [item for item in (item.strip(b" \t") for item in listed.split(b",")) if item]
    if unit.strip(b" \t").lower() != b"bytes" or not 0 < len(ranges) <= _MOST_RANGES:
        return None
    parts: list[Part] = []
    for item in ranges:
        match = _RANGE.fullmatch(item)
        if match is None or item == b"-":
            return None
        first, last = (_number(digits) if digits else None for digits in match.groups())
        if first is None:
            assert last is not None
            if last and not size:
                return None
            first, last = max(size - last, 0), size - 1
        elif last is not None and last < first:
            return None
        if first < size:
            parts.append((first, size if last is None else min(last + 1, size)))
    return _merged(parts)


def _number(digits: bytes) -> int:
    return int(digits) if len(digits) <= _MOST_DIGITS else 10**_MOST_DIGITS


def _merged(parts: list[Part]) -> list[Part]:
    merged: list[Part] = []
    for start, end in sorted(parts):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


class Partial(NamedTuple):
    """The headers of a 206 response that differ from those of the whole file, and its body: bytes, and parts of the
    file."""

    headers: list[tuple[bytes, bytes]]
    body: list[bytes | Part]
    length: int


def partial(parts: list[Part], size: int, content_type: bytes) -> Partial:
    """The 206 response with one part, or with several as multipart/byteranges."""
    if len(parts) == 1:
        ((start, end),) = parts
        headers = [(b"content-type", content_type), (b"content-range", _content_range(start, end, size))]
        return Partial(headers, [(start, end)], end - start)
    boundary = token_hex(16).encode()
    body: list[bytes | Part] = []
    for number, (start, end) in enumerate(parts):
        lines = (
            (b"\r\n" if number else b"") + b"--" + boundary,
            b"Content-Type: " + content_type,
            b"Content-Range: " + _content_range(start, end, size),
            b"\r\n",
        )
        body += [b"\r\n".join(lines), (start, end)]
    body.append(b"\r\n--" + boundary + b"--\r\n")
    length = sum(len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in body)
    return Partial([(b"content-type", b"multipart/byteranges; boundary=" + boundary)], body, length)


def _content_range(start: int, end: int, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (start, end - 1, size)
