"""The application's own spans, made with the API of OpenTelemetry, in the traces of the host.

This module is imported only where the application has imported that API. It uses the API alone, which records nothing
by itself: whether the application's spans are recorded is decided by the SDK that the application has set up.
"""

from __future__ import annotations

from contextvars import Token
from functools import lru_cache
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from pywatt_host.observability.context import TraceContext


class _HostSpan(NonRecordingSpan):
    """A span of the host, as the application's spans see it."""


class OpenTelemetrySpans:
    """Makes the spans of the host the parents of the application's, and the other way round."""

    present = True

    def enter(self, place: TraceContext) -> Token[Any]:
        """Let the application's spans in this context hang below this place, until `leave` is called with what this
        returns."""
        context = SpanContext(
            int(place.trace_id, 16), int(place.parent_id, 16), False, TraceFlags(place.flags), _state(place.state)
        )
        return otel_context.attach(otel_trace.set_span_in_context(_HostSpan(context)))

    def leave(self, token: Token[Any]) -> None:
        """The context is as it was before `enter`."""
        otel_context.detach(token)

    def innermost(self) -> TraceContext | None:
        """The span of the application that is open in this context. None where there is none, or where one of the
        host's was opened within it."""
        span = otel_trace.get_current_span()
        if isinstance(span, _HostSpan):
            return None
        context = span.get_span_context()
        if not context.is_valid:
            return None
        return TraceContext(
            f"{context.trace_id:032x}",
            f"{context.span_id:016x}",
            int(context.trace_flags),
            context.trace_state.to_header(),
        )


@lru_cache(maxsize=256)
def _state(state: str) -> TraceState:
    return TraceState.from_header([state]) if state else TraceState()
