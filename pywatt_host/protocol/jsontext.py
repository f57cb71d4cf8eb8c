"""JSON from peers that may be hostile: RFC 8259 without duplicate members, NaN, Infinity and deep nesting."""

from __future__ import annotations

from typing import Any

import orjson

from pywatt_host.exceptions import ProtocolError

MOST_DEPTH = 64
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_OPENS = ord("[")
_QUICK_LEVELS = 4
_NO_BRACKETS = bytes(octet for octet in range(256) if octet not in b"{}[]")


def loads(octets: bytes | bytearray | memoryview) -> Any:
    """The document. Raises ProtocolError for what is not UTF-8 JSON, has a member twice or nests deeper than 64."""
    octets = bytes(octets)
    objects = octets.count(b"{")
    if objects + octets.count(b"[") > MOST_DEPTH and _depth(octets) > MOST_DEPTH:
        raise ProtocolError("json", f"it nests deeper than {MOST_DEPTH} levels")
    try:
        document = orjson.loads(octets)
    except ValueError as error:
        raise ProtocolError("json", f"it is not JSON: {_reason(error)}") from None
    if objects and not _written_again(document, octets):
        # Every member has its colon, so as many members as colons means that none stands twice. Colons within texts
        # make the count larger: then those are taken out.
        members = _members(document, objects)
        if octets.count(b":") != members and _outside_texts(octets).count(b":") != members:
            raise ProtocolError("json", "an object has a member twice")
    return document


def _written_again(document: Any, octets: bytes) -> bool:
    """Whether the document is written as it was read, which tells quickly that no member stands twice: a reader keeps
    one of the two. True for most peers, who write compact JSON, or the spaces of the standard library (taking them out
    of texts as well takes no member away); False says nothing."""
    written = orjson.dumps(document)
    return written == octets or written == octets.replace(b": ", b":").replace(b", ", b",")


def dumps(document: Any) -> bytes:
    """Compact JSON. Raises ProtocolError where a value has no JSON form."""
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise ProtocolError("json", f"it has no JSON form: {error}") from None


def _reason(error: ValueError) -> str:
    return str(error).partition(": line")[0][:80]


def _outside_texts(octets: bytes) -> bytes:
    """What stands outside of the quotation marks."""
    if b"\\" in octets:
        octets = octets.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(octets.split(b'"')[::2])


def _depth(octets: bytes) -> int:
    """The deepest nesting, counted no further than one level beyond the most; brackets within texts do not count.
    Where brackets do not pair it is anything: that is no JSON, as the parser will say."""
    brackets = _outside_texts(octets).translate(_ONE_KIND, _NO_BRACKETS)
    levels = 0
    while brackets and levels < _QUICK_LEVELS:  # what is wide is seldom deep: take the innermost level away at once
        levels += 1
        brackets = brackets.replace(b"[]", b"")
    depth = deepest = levels
    for bracket in brackets:
        depth += 1 if bracket == _OPENS else -1
        if depth > deepest:
            deepest = depth
            if deepest > MOST_DEPTH:
                break
    return deepest


def _members(document: Any, objects: int) -> int:
    """How many members all objects have together; looks no further than the last of `objects`."""
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
