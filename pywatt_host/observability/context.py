"""The request or message that is being handled: its id, its trace, the claims of its credential."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_NO_TRACE_ID, _NO_PARENT_ID = "0" * 32, "0" * 16
_SAMPLED, _RANDOM = 0x01, 0x02
_new = tuple.__new__
_LONGEST_STATE = 512  # characters of a tracestate
_STATE = re.compile(r"[\t -~]*").fullmatch


class TraceContext(NamedTuple):
    """A place in a trace: the trace, and one span of it (W3C Trace Context, level 2).

    `parent_id` is the id of the span that others hang below: that of the caller, for a request that has just arrived;
    empty where the trace begins here. `flags` holds the flags `sampled` (1) and `random` (2). `state` is the
    `tracestate`, which is passed on as it came.
    """

    trace_id: str
    parent_id: str
    flags: int
    state: str = ""

    @property
    def sampled(self) -> bool:
        """Whether the spans of the trace are recorded."""
        return bool(self.flags & _SAMPLED)

    def traceparent(self) -> str:
        """The `traceparent` that names the span of this place."""
        return f"00-{self.trace_id}-{self.parent_id}-{self.flags:02x}"

    def child(self) -> str:
        """The `traceparent` of a request that is made in the course of this one: the same trace with the same flags,
        and a new span id."""
        return f"00-{self.trace_id}-{os.urandom(8).hex()}-{self.flags:02x}"


def parse_traceparent(value: str | bytes) -> TraceContext | None:
    """The trace in a `traceparent`; None where it is not valid.

    Of a version that is higher than 00, the four fields of version 00 are read, and of its flags `sampled` alone. The
    flags of version 00 that are reserved are dropped: the standard asks that they are not passed on.

    >>> parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    TraceContext(trace_id='0af7651916cd43dd8448eb211c80319c', parent_id='b7ad6b7169203331', flags=0, state='')
    """
    match = _TRACEPARENT.match(value.decode("latin-1") if isinstance(value, bytes) else value)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE_ID or parent_id == _NO_PARENT_ID:
        return None
    known = _SAMPLED | _RANDOM if version == "00" else _SAMPLED
    return TraceContext(trace_id, parent_id, int(flags, 16) & known)


def parse_tracestate(value: str | bytes) -> str:
    """A `tracestate` that can be passed on; empty where it is longer than 512 characters, which the standard asks to
    pass on at least, or has characters that do not belong into it."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    text = text.strip(" \t,")
    return text if len(text) <= _LONGEST_STATE and _STATE(text) else ""


def read_trace(traceparent: str | bytes, tracestate: str | bytes) -> TraceContext | None:
    """The trace in the two header fields; None where `traceparent` is not valid."""
    trace = parse_traceparent(traceparent)
    return trace._replace(state=parse_tracestate(tracestate)) if trace is not None and tracestate else trace


class RequestContext(Protocol):
    """What is known about a request or a message while it is handled."""

    request_id: bytes
    trace: TraceContext | None  # of the caller; where tracing is on, that of a trace that begins here otherwise
    span_id: str  # of the span of the request itself; empty where tracing is off
    unavailable: str  # the store that could not be reached while it was handled; empty where all could be reached
    reason: str  # for the log: why the host answered in place of the application; empty where it did not

    @property
    def claims(self) -> dict[str, Any]:
        """The verified claims of its credential, as a copy. Empty where there is no credential."""


# The request that is handled in this context. The records that the application logs meanwhile carry its id and trace.
current_request: ContextVar[RequestContext | None] = ContextVar("pywatt_request", default=None)

# The innermost span that is open in this context, other than that of the request itself.
current_span: ContextVar[TraceContext | None] = ContextVar("pywatt_span", default=None)


def active_trace() -> TraceContext | None:
    """The place in the trace that new spans, outgoing requests and messages of this context hang below. None where
    there is no trace."""
    span = current_span.get()
    if span is not None:
        return span
    request = current_request.get()
    if request is None or (trace := request.trace) is None:
        return None
    if not request.span_id:
        return trace
    # As TraceContext(...), which takes three times as long.
    return _new(TraceContext, (trace[0], request.span_id, trace[2], trace[3]))


def outgoing_trace() -> tuple[str, str] | None:
    """The `traceparent` and the `tracestate` of a request or a message that is sent in this context without a span of
    its own. The second one may be empty."""
    span = current_span.get()
    if span is not None:
        return span.traceparent(), span.state
    request = current_request.get()
    if request is None or (trace := request.trace) is None:
        return None
    if not request.span_id:  # tracing is off, and the trace of the caller passes through
        return trace.child(), trace.state
    return f"00-{trace.trace_id}-{request.span_id}-{trace.flags:02x}", trace.state
