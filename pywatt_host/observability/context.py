"""The request or message that is being handled: its id, its trace, the claims of its credential."""

from __future__ import annotations

import os
import re
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?\Z")
_NO_TRACE_ID, _NO_PARENT_ID = "0" * 32, "0" * 16
_SAMPLED, _RANDOM = 0x01, 0x02


class TraceContext(NamedTuple):
    """The trace that a request belongs to, as its `traceparent` says (W3C Trace Context, level 2).

    `parent_id` is the id of the caller's span. `flags` holds the flags `sampled` (1) and `random` (2).
    """

    trace_id: str
    parent_id: str
    flags: int

    def child(self) -> str:
        """The `traceparent` of a request that is made in the course of this one: the same trace with the same flags,
        and a new span id."""
        return f"00-{self.trace_id}-{os.urandom(8).hex()}-{self.flags:02x}"


def parse_traceparent(value: str | bytes) -> TraceContext | None:
    """The trace in a `traceparent`; None where it is not valid.

    Of a version that is higher than 00, the four fields of version 00 are read, and of its flags `sampled` alone. The
    flags of version 00 that are reserved are dropped: the standard asks that they are not passed on.

    >>> parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00")
    TraceContext(trace_id='0af7651916cd43dd8448eb211c80319c', parent_id='b7ad6b7169203331', flags=0)
    """
    match = _TRACEPARENT.match(value.decode("latin-1") if isinstance(value, bytes) else value)
    if match is None:
        return None
    version, trace_id, parent_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or trace_id == _NO_TRACE_ID or parent_id == _NO_PARENT_ID:
        return None
    known = _SAMPLED | _RANDOM if version == "00" else _SAMPLED
    return TraceContext(trace_id, parent_id, int(flags, 16) & known)


class RequestContext(Protocol):
    """What is known about a request or a message while it is handled."""

    request_id: bytes
    trace: TraceContext | None
    unavailable: str  # the store that could not be reached while it was handled; empty where all could be reached
    reason: str  # for the log: why the host answered in place of the application; empty where it did not

    @property
    def claims(self) -> dict[str, Any]:
        """The verified claims of its credential, as a copy. Empty where there is no credential."""


# The request that is handled in this context. The records that the application logs meanwhile carry its id and trace.
current_request: ContextVar[RequestContext | None] = ContextVar("pywatt_request", default=None)
