"""JSON from peers that may be hostile: RFC 8259 without duplicate members, NaN, Infinity and deep nesting."""

from __future__ import annotations

from typing import Any

import orjson

from pywatt_host.exceptions import ProtocolError

MAX_DEPTH = 64
_SQUARE_BRACKETS = bytes.maketrans(b"{}", b"[]")
_OPENS = ord("[")
_QUICK_LEVELS = 4
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")


def loads(data: bytes | bytearray | memoryview) -> Any:
    """The JSON document in `data`. Raises ProtocolError where it is not JSON in UTF-8, where an object has a duplicate
    member, and where it nests deeper than 64 levels."""
    data = bytes(data)
    objects = data.count(b"{")
    if objects + data.count(b"[") > MAX_DEPTH and _depth(data) > MAX_DEPTH:
        raise ProtocolError("json", f"JSON nests deeper than {MAX_DEPTH} levels")
    try:
        document = orjson.loads(data)
    except ValueError as error:
        raise ProtocolError("json", f"not valid JSON: {_reason(error)}") from None
    if objects and not _is_written_alike(document, data):
        # Each member has one colon, so that as many members as colons means that there is no duplicate. Colons within
        # strings make the count larger: it is then taken again without the strings.
        members = _members(document, objects)
        if data.count(b":") != members and _without_strings(data).count(b":") != members:
            raise ProtocolError("json", "an object has a duplicate member")
    return document


def _is_written_alike(document: Any, data: bytes) -> bool:
    """Whether writing the document gives the same bytes that were read. This is a quick proof that no member is a
    duplicate, since a reader keeps only one of the two. It holds for most peers: they write compact JSON, or JSON with
    the spaces of the standard library (removing those within strings too removes no member). False proves nothing."""
    written = orjson.dumps(document)
    return written == data or written == data.replace(b": ", b":").replace(b", ", b",")


def dumps(document: Any) -> bytes:
    """Compact JSON. Raises ProtocolError where a value cannot be written as JSON."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise ProtocolError("json", f"the content cannot be written as JSON: {error}") from None


def _reason(error: ValueError) -> str:
    return str(error).partition(": line")[0][:80]


def _without_strings(data: bytes) -> bytes:
    """The text without its strings."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.split(b'"')[::2])


def _depth(data: bytes) -> int:
    """The deepest nesting, counted no further than one level beyond the limit; brackets within strings do not count.
    Where brackets do not pair the result may be any number: the parser then refuses the text."""
    brackets = _without_strings(data).translate(_SQUARE_BRACKETS, _NO_BRACKETS)
    levels = 0
    while brackets and levels < _QUICK_LEVELS:  # wide documents are seldom deep: remove the innermost level at once
        levels += 1
        brackets = brackets.replace(b"[]", b"")
    depth = deepest = levels
    for bracket in brackets:
        depth += 1 if bracket == _OPENS else -1
        if depth > deepest:
            deepest = depth
            if deepest > MAX_DEPTH:
                break
    return deepest


def _members(document: Any, objects: int) -> int:
    """The number of members of all objects together; stops looking after so many `objects`."""
    count = 0
    pending = [document]
    while pending and objects > 0:
        value = pending.pop()
        if value.__class__ is dict:
            objects -= 1
            count += len(value)
            if objects:
                pending += [item for item in value.values() if item.__class__ is dict or item.__class__ is list]
        elif value.__class__ is list:
            pending += [item for item in value if item.__class__ is dict or item.__class__ is list]
    return count
