"""The spans of a start, and of the start of a new generation: what takes long, and what has failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.spans import (
    NO_ATTRIBUTES,
    NO_TRACER,
    UNRECORDED,
    AnySpan,
    AnyTracer,
    Attributes,
    Value,
)

_SHORT = 0.001  # seconds that a part takes without a span of its own


class StartSpans:
    """The span of one start, and those of its parts that take long.

    No part is the current span while it runs: tasks that begin in it run for as long as the host does, and what they do
    later is not done by the start.
    """

    def __init__(self, tracer: Callable[[], AnyTracer] = lambda: NO_TRACER, below: TraceContext | None = None) -> None:
        """`tracer` is called when the start begins. Its span hangs below that of `below`; without it a trace begins."""
        self._tracer: AnyTracer = NO_TRACER
        self._tracer_now = tracer
        self._below = below
        self._span: AnySpan = UNRECORDED
        self._place: TraceContext | None = None  # of the part that runs
        self.current = ""  # the name of the part that runs

    def begin(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> None:
        """The start begins."""
        self._tracer = self._tracer_now()
        self._span = self._tracer.span(name, attributes=attributes, parent=self._below, root=self._below is None)
        self._place = self._span.place if self._tracer.enabled else None

    @property
    def place(self) -> TraceContext | None:
        """What another process that is started hangs its spans below."""
        return self._place

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the start, which lasts as long as the block does. Parts within it hang below it."""
        around, self.current = self.current, name
        try:
            with self._recorded(name):
                yield
        finally:
            self.current = around

    @contextmanager
    def _recorded(self, name: str) -> Iterator[None]:
        before = self._place
        if before is None:
            yield
            return
        span, began = self._tracer.span(name, parent=before), perf_counter()
        self._place = span.place
        try:
            yield
        except BaseException as error:
            span.fail(type(error).__qualname__)
            span.end()
            raise
        finally:
            self._place = before
        if perf_counter() - began >= _SHORT:
            span.end()

    def set(self, name: str, value: Value) -> None:
        """Set an attribute of the whole."""
        self._span.set(name, value)

    def end(self, error_type: str = "") -> None:
        """The start is over, also where it has failed (`error_type`, see `Span.fail`). Further calls do nothing."""
        span, self._span, self._place = self._span, UNRECORDED, None
        if error_type:
            span.fail(error_type)
        span.end()

    @contextmanager
    def whole(self, name: str, attributes: Attributes = NO_ATTRIBUTES) -> Iterator[None]:
        """The start lasts as long as the block does, if it does not end before."""
        self.begin(name, attributes)
        try:
            yield
        except BaseException as error:
            self.end(type(error).__qualname__)
            raise
        self.end()
