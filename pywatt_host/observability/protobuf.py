"""Reads protobuf without a schema: the fields of a message, with their numbers (protobuf encoding guide)."""

from __future__ import annotations

from collections.abc import Iterator


class ProtobufError(ValueError):
    """The bytes are no protobuf message."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in their order: the number, and the value. A varint or a fixed number is an int, anything
    with a length is bytes. Groups, which nothing of today uses, are refused. Raises ProtobufError."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ProtobufError("a field has the number 0")
        if kind == 2:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise ProtobufError("a field is longer than its message")
            yield number, data[at : at + length]
            at += length
        elif kind == 0:
            value, at = _varint(data, at, end)
            yield number, value
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            if length > end - at:
                raise ProtobufError("a field is longer than its message")
            yield number, int.from_bytes(data[at : at + length], "little")
            at += length
        else:
            raise ProtobufError(f"the wire type {kind} is not used")


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise ProtobufError("a number is longer than ten bytes")
    raise ProtobufError("the message ends within a number")
