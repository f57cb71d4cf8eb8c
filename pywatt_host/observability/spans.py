"""Spans: what the host has done for a request, a message or a task, and how long it took.

A span is a tuple in a bounded buffer from its end on, and nothing else happens to it while a request waits. The
exporter (`span_export`) takes the buffer in batches and sends it off. The model is that of OpenTelemetry's tracing API
(specification 1.x), the names of attributes are those of its semantic conventions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from enum import IntEnum
from importlib import import_module
from time import perf_counter
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, TypeAlias

from pywatt_host.observability.context import TraceContext, active_trace, current_span, outgoing_trace

_SAMPLED, _RANDOM = 0x01, 0x02
_IDS_PER_BATCH = 256
_new = tuple.__new__

Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
NO_ATTRIBUTES: Attributes = MappingProxyType({})

# A span that has ended. The first element encodes it (`otlp.SpanEncoder` has one method for each form), the others are
# its arguments: those of `Span` are trace, span id, kind, name, begin, end, attributes, error and links.
Record: TypeAlias = tuple[Any, ...]


class SpanKind(IntEnum):
    """What a span is to the trace; the numbers are those of OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class SpanBuffer:
    """The spans that have ended and were not sent yet. At most `limit` are kept; further ones are dropped and counted.

    `on_full` is called once when `batch` spans are there, until `take` has emptied it. Spans may be added in any
    thread.
    """

    def __init__(self, limit: int = 8192, batch: int = 512) -> None:
        self.dropped = 0  # for want of room
        self.on_full: Callable[[], None] = lambda: None
        self._limit = limit
        self._batch = batch
        self._records: list[Record] = []

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Record) -> None:
        """Keep a span until it is sent."""
        records = self._records
        length = len(records)
        if length < self._limit:
            records.append(record)
            if length + 1 == self._batch:
                self.on_full()
        else:
            self.dropped += 1

    def take(self) -> list[Record]:
        """All spans; the buffer is empty afterwards."""
        taken = self._records[:]
        del self._records[: len(taken)]  # in place: another thread may be about to add to this list
        return taken

    def close(self) -> None:
        """Keep no spans from now on: nothing takes them in this process."""
        self._limit, self._records = 0, []


class AppSpans(Protocol):
    """The application's own spans, where it uses the API of OpenTelemetry."""

    present: bool

    def enter(self, place: TraceContext) -> Token[Any] | None:
        """Let the application's spans in this context hang below this place, until `leave` is called with what this
        returns."""

    def leave(self, token: Token[Any]) -> None:
        """The context is as it was before `enter`."""

    def innermost(self) -> TraceContext | None:
        """The span of the application that is open in this context. None where there is none, or where one of the
        host's was opened within it."""


class NoAppSpans:
    """Stands in where the application has not imported the API of OpenTelemetry."""

    present = False

    def enter(self, place: TraceContext) -> None:
        return

    def leave(self, token: Token[Any]) -> None:
        return

    def innermost(self) -> TraceContext | None:
        return None


class Span:
    """A span that is open, as a context manager. It has ended when the block ends; an exception makes it an error.

    Within the block it is the parent of further spans. `place` is what outgoing requests name as their parent.
    """

    __slots__ = (
        "_app_token", "_attributes", "_begun", "_error", "_kind", "_links", "_name", "_own", "_parent", "_token",
        "_tracer", "place",
    )  # fmt: skip

    recorded = True

    def __init__(
        self,
        tracer: Tracer,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        parent: TraceContext,
        links: Sequence[TraceContext],
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._attributes = attributes
        self._own: dict[str, Value] | None = None  # their copy, once one is set: many spans share theirs
        self._parent = parent
        self._links = links
        self._error = ""
        self._token: Token[TraceContext | None] | None = None
        self._app_token: Token[Any] | None = None
        self._begun = perf_counter()
        ids = tracer.ids
        span_id = ids.pop()[32:] if ids else tracer.new_span_id()
        # As TraceContext(...), which takes three times as long.
        self.place: TraceContext = _new(TraceContext, (parent[0], span_id, parent[2], parent[3]))

    def set(self, name: str, value: Value) -> None:
        """Set an attribute."""
        own = self._own
        if own is None:
            self._attributes = own = self._own = dict(self._attributes)
        own[name] = value

    def rename(self, name: str) -> None:
        """Give the span another name."""
        self._name = name

    def fail(self, error_type: str, description: str = "") -> None:
        """Make it an error. `error_type` is a short, bounded name: that of an exception's class, or a status.
        `description` must have nothing secret in it."""
        self.set("error.type", error_type)
        self._error = description or error_type

    @property
    def traceparent(self) -> str | None:
        """The `traceparent` of a request or a message that is sent within the span."""
        return self.place.traceparent()

    @property
    def tracestate(self) -> str:
        """Its `tracestate`; empty where there is none."""
        return self.place.state

    def begin(self) -> None:
        """Enter the span without a block. `end` must be called in the same context."""
        self._token = current_span.set(self.place)
        self._app_token = self._tracer.app_spans.enter(self.place)

    def end(self, *, leave: bool = True) -> None:
        """Record the span. With `leave=False` its context is left alone, as at the end of a task of its own."""
        tracer = self._tracer
        if leave:
            if self._app_token is not None:
                tracer.app_spans.leave(self._app_token)
            if self._token is not None:
                current_span.reset(self._token)
        self._token = self._app_token = None
        tracer.buffer.add(
            (
                "span",
                self._parent,
                self.place.parent_id,
                self._kind,
                self._name,
                self._begun,
                perf_counter(),
                self._attributes,
                self._error,
                self._links,
            )
        )

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self._error and not issubclass(kind, GeneratorExit):
            self.fail(kind.__qualname__)
        self.end()


class UnrecordedSpan:
    """A span that is not recorded. It has the methods of `Span`; what is sent within it names the span around it."""

    __slots__ = ()

    recorded = False

    def set(self, name: str, value: Value) -> None:
        return

    def rename(self, name: str) -> None:
        return

    def fail(self, error_type: str, description: str = "") -> None:
        return

    @property
    def place(self) -> TraceContext | None:
        return active_trace()

    @property
    def traceparent(self) -> str | None:
        trace = outgoing_trace()
        return trace[0] if trace is not None else None

    @property
    def tracestate(self) -> str:
        trace = outgoing_trace()
        return trace[1] if trace is not None else ""

    def begin(self) -> None:
        return

    def end(self, *, leave: bool = True) -> None:
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return


class UnsampledSpan(UnrecordedSpan):
    """A span of a trace that is not recorded, and that nothing else in its context names: what is sent within it says
    that the trace is not sampled."""

    __slots__ = ("_place", "_token")

    def __init__(self, place: TraceContext) -> None:
        self._place = place
        self._token: Token[TraceContext | None] | None = None

    @property
    def place(self) -> TraceContext | None:
        return self._place

    def begin(self) -> None:
        self._token = current_span.set(self._place)

    def end(self, *, leave: bool = True) -> None:
        if self._token is not None and leave:
            current_span.reset(self._token)
        self._token = None

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


AnySpan: TypeAlias = Span | UnrecordedSpan

UNRECORDED = UnrecordedSpan()


class Tracer:
    """Makes the spans of a host.

    `ratio` of the traces that begin here are recorded, by their id. Of traces that began elsewhere those are recorded
    whose `traceparent` says so (a sampler that is parent-based, with a ratio of trace ids). With `parent_based=False`
    the ratio decides about these too.
    """

    enabled = True

    def __init__(self, buffer: SpanBuffer, ratio: float = 1.0, *, parent_based: bool = True) -> None:
        self.buffer = buffer
        self.parent_based = parent_based
        self.app_spans: AppSpans = NoAppSpans()
        self._bound = round(ratio * 2**64)  # a trace is recorded if the last 64 bits of its id are below it
        self.everything = ratio >= 1.0
        self.ids: list[str] = []  # in stock, each that of a trace and that of a span

    def new_trace(self, trace_id: str = "") -> TraceContext:
        """A trace that begins here, with a new id by default. Its `parent_id` is empty."""
        trace_id = trace_id or self.new_ids()[:32]
        sampled = self.everything or int(trace_id[16:], 16) < self._bound
        return _new(TraceContext, (trace_id, "", _SAMPLED | _RANDOM if sampled else _RANDOM, ""))

    def decided(self, parent: TraceContext) -> TraceContext:
        """A place in a trace that began elsewhere, with the flag `sampled` as this tracer decides about it."""
        if self.parent_based:
            return parent
        sampled = self.everything or int(parent.trace_id[16:], 16) < self._bound
        return parent._replace(flags=parent.flags & ~_SAMPLED | sampled)

    def new_span_id(self) -> str:
        """An id of 64 random bits, as 16 hexadecimal digits."""
        return self.new_ids()[32:]

    def new_ids(self) -> str:
        """The id of a trace (32 hexadecimal digits), followed by that of a span (16)."""
        ids = self.ids
        try:
            return ids.pop()
        except IndexError:
            digits = os.urandom(24 * _IDS_PER_BATCH).hex()
            ids += [digits[start : start + 48] for start in range(0, len(digits), 48)]
            return ids.pop()

    def span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        parent: TraceContext | None = None,
        root: bool = False,
        links: Sequence[TraceContext] = (),
    ) -> AnySpan:
        """A span below `parent`, by default below the span that is open in this context. Where there is none, or with
        `root`, a trace begins. Use it as a context manager."""
        if parent is None and not root:
            parent = self.app_spans.innermost() or active_trace()
            if parent is not None and not parent.flags & _SAMPLED:
                return UNRECORDED
        parent = self.new_trace() if parent is None else self.decided(parent)
        if parent.flags & _SAMPLED:
            return Span(self, name, kind, attributes, parent, links)
        return UnsampledSpan(parent if parent.parent_id else parent._replace(parent_id=self.new_span_id()))

    def follow_app(self) -> None:
        """Let spans of the application hang below those of the host, if it has imported the API of OpenTelemetry by
        now. Nothing is imported otherwise."""
        if "opentelemetry.trace" in sys.modules:
            self.app_spans = import_module("pywatt_host.observability.app_spans").OpenTelemetrySpans()


class NoTracer:
    """Stands in for a tracer where tracing is off."""

    enabled = False

    def span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        parent: TraceContext | None = None,
        root: bool = False,
        links: Sequence[TraceContext] = (),
    ) -> AnySpan:
        return UNRECORDED

    def follow_app(self) -> None:
        return


AnyTracer: TypeAlias = Tracer | NoTracer

NO_TRACER = NoTracer()
