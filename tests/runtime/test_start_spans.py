"""The spans of a start: what took long, and what has failed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pywatt_host.app.state import AppState
from pywatt_host.exceptions import ServiceError
from pywatt_host.observability.context import TraceContext, active_trace
from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.types import Receive, Scope, Send
from tests.collector import collecting, recorded
from tests.hosting import hello, hosted, run


def test_the_start_of_a_host_shows_what_took_long() -> None:
    seen: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await hello(scope, receive, send)
            return
        await receive()
        state: AppState = scope["state"]["pywatt"]

        @state.on_startup
        async def warm_up() -> None:
            await asyncio.sleep(0.005)
            seen.append(active_trace())

        await asyncio.sleep(0.005)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        async with hosted({"tracing": collector.url}, app):
            pass

    with collecting() as collector:
        run(main)
        spans = {span.name: span for span in collector.everything()}
    start, application, hooks = spans["start"], spans["start app"], spans["start hooks"]
    lifespan = next(span for name, span in spans.items() if name.startswith("lifespan under_test"))
    hook = next(span for name, span in spans.items() if name.endswith("warm_up"))
    assert (start.parent, start.kind) == ("", "internal")
    assert {application.parent, hooks.parent} == {start.id}
    assert (lifespan.parent, hook.parent) == (application.id, hooks.id)
    assert {span.trace for span in spans.values()} == {start.trace}
    assert seen == [None]  # what a hook begins and leaves running is no part of the start


def test_a_start_that_fails_says_where() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

        state: AppState = scope["state"]["pywatt"]

        @state.on_startup
        def broken() -> None:
            raise LookupError

        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def main() -> None:
        with pytest.raises(ServiceError):
            async with hosted({"tracing": collector.url}, app):
                pass

    with collecting() as collector:
        run(main)
        failed = [
            (span.name.partition("test_")[0], span.attributes["error.type"])
            for span in collector.everything()
            if span.failed
        ]
    assert failed == [("hook ", "LookupError"), ("start hooks", "ServiceError"), ("start", "ServiceError")]


def test_a_short_part_has_no_span_and_parts_nest_below_what_has_started_the_process() -> None:
    tracer = Tracer(SpanBuffer())
    above = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1)
    spans = StartSpans(lambda: tracer, above)
    with spans.part("before the start"):
        time.sleep(0.002)
    with spans.whole("start"):
        with spans.part("short"):
            pass
        with spans.part("outer"), spans.part("inner"):
            time.sleep(0.002)
    with spans.part("after the start"):
        time.sleep(0.002)
    inner, outer, start = recorded(tracer)
    assert (inner.name, inner.parent, outer.parent, start.parent) == ("inner", outer.id, start.id, above.parent_id)
    assert start.trace == above.trace_id
