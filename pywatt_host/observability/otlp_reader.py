"""Reads the spans of an OTLP export: cheaply, to keep them, and in full, to show them.

An ExportTraceServiceRequest is a list of ResourceSpans, each with a resource and lists of spans.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from pywatt_host.observability.protobuf import ProtobufError, fields

Json: TypeAlias = dict[str, Any]

_KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_STATES = ("unset", "ok", "error")
_DEEPEST = 4  # levels of an attribute
_double = struct.Struct("<d").unpack


class KeptSpan(NamedTuple):
    """A span as it has arrived, with the encoded resource that it belongs to."""

    trace_id: str
    resource: bytes
    encoded: bytes


def kept_spans(request: bytes) -> Iterator[KeptSpan]:
    """The spans of an encoded ExportTraceServiceRequest, read no further than to the id of their trace. Raises
    ProtobufError."""
    for number, resource_spans in fields(request):
        if number != 1:
            continue
        resource, scopes = b"", []
        for inner, value in fields(_bytes(resource_spans)):
            if inner == 1:
                resource = _bytes(value)
            elif inner == 2:
                scopes.append(_bytes(value))
        for scope_spans in scopes:
            for inner, value in fields(scope_spans):
                if inner == 2:
                    span = _bytes(value)
                    yield KeptSpan(_trace_id(span), resource, span)


def _trace_id(span: bytes) -> str:
    if span.startswith(b"\x0a\x10"):  # where encoders put it
        found = span[2:18]
    else:
        found = next((_bytes(value) for number, value in fields(span) if number == 1), b"")
    if len(found) != 16:
        raise ProtobufError("a span has no trace id of 16 bytes")
    return found.hex()


def read_span(span: KeptSpan) -> Json:
    """A span for people and for JSON. Times are in seconds since the epoch. Raises ProtobufError."""
    found: Json = {
        "span_id": "", "parent_id": "", "name": "", "kind": _KINDS[0], "start": 0.0, "end": 0.0,
        "status": _STATES[0], "error": "", "attributes": {}, "links": [], "events": [],
    }  # fmt: skip
    for number, value in fields(span.encoded):
        match number, value:
            case 2, bytes():
                found["span_id"] = value.hex()
            case 4, bytes():
                found["parent_id"] = value.hex()
            case 5, bytes():
                found["name"] = _text(value)
            case 6, int():
                found["kind"] = _KINDS[value] if value < len(_KINDS) else _KINDS[0]
            case 7, int():
                found["start"] = value / 1e9
            case 8, int():
                found["end"] = value / 1e9
            case 9, bytes():
                name, attribute = _attribute(value)
                found["attributes"][name] = attribute
            case 11, bytes():
                found["events"].append(_event(value))
            case 13, bytes():
                found["links"].append(_link(value))
            case 15, bytes():
                found["status"], found["error"] = _status(value)
    resource = attributes_of(span.resource)
    return {"service": str(resource.get("service.name", "")), **found, "resource": resource}


def attributes_of(resource: bytes) -> Json:
    """The attributes of an encoded resource. Raises ProtobufError."""
    return dict(_attribute(_bytes(value)) for number, value in fields(resource) if number == 1)


def _attribute(encoded: bytes, depth: int = 0) -> tuple[str, Any]:
    name, found = "", None
    for number, value in fields(encoded):
        if number == 1:
            name = _text(_bytes(value))
        elif number == 2:
            found = _any(_bytes(value), depth)
    return name, found


def _any(encoded: bytes, depth: int) -> Any:
    found: Any = None
    for number, value in fields(encoded):
        match number, value:
            case 1, bytes():
                found = _text(value)
            case 2, int():
                found = bool(value)
            case 3, int():
                found = value - 2**64 if value >= 2**63 else value
            case 4, int():
                found = _double(value.to_bytes(8, "little"))[0]
            case 5, bytes() if depth < _DEEPEST:
                found = [_any(_bytes(each), depth + 1) for inner, each in fields(value) if inner == 1]
            case 6, bytes() if depth < _DEEPEST:
                found = dict(_attribute(_bytes(each), depth + 1) for inner, each in fields(value) if inner == 1)
            case 7, bytes():
                found = value.hex()
    return found


def _status(encoded: bytes) -> tuple[str, str]:
    state, text = _STATES[0], ""
    for number, value in fields(encoded):
        if number == 2:
            text = _text(_bytes(value))
        elif number == 3 and isinstance(value, int) and value < len(_STATES):
            state = _STATES[value]
    return state, text


def _link(encoded: bytes) -> Json:
    ids = {number: value.hex() for number, value in fields(encoded) if isinstance(value, bytes) and number < 3}
    return {"trace_id": ids.get(1, ""), "span_id": ids.get(2, "")}


def _event(encoded: bytes) -> Json:
    found: Json = {"time": 0.0, "name": "", "attributes": {}}
    for number, value in fields(encoded):
        match number, value:
            case 1, int():
                found["time"] = value / 1e9
            case 2, bytes():
                found["name"] = _text(value)
            case 3, bytes():
                name, attribute = _attribute(value)
                found["attributes"][name] = attribute
    return found


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ProtobufError("a field is a number and not a message")
    return value


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
