"""Spans: where they hang, which of them are recorded, and what is passed on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from pywatt_host.messaging.context import MessageContext
from pywatt_host.observability.context import (
    TraceContext,
    active_trace,
    current_request,
    current_span,
    outgoing_trace,
    read_trace,
)
from pywatt_host.observability.spans import UNRECORDED, NoTracer, Span, SpanBuffer, SpanKind, Tracer

TRACE, PARENT, OWN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = TraceContext(TRACE, PARENT, 1, "a=1"), TraceContext(TRACE, PARENT, 0, "a=1")


@pytest.fixture
def tracer() -> Tracer:
    return Tracer(SpanBuffer())


@pytest.fixture
def in_request(request: pytest.FixtureRequest) -> Iterator[TraceContext]:
    """Code that runs for a request of this trace."""
    trace: TraceContext = request.param
    token = current_request.set(MessageContext(b"id", trace, OWN))
    yield trace
    current_request.reset(token)


def names(tracer: Tracer) -> list[str]:
    return [record[4] for record in tracer.buffer.take()]


def test_a_span_without_a_parent_begins_a_trace(tracer: Tracer) -> None:
    with tracer.span("one"):
        pass
    with tracer.span("two"):
        pass
    one, two = tracer.buffer.take()
    assert one[1].parent_id == two[1].parent_id == ""
    assert one[1].trace_id != two[1].trace_id
    assert one[1].sampled


def test_spans_hang_below_the_one_that_is_open(tracer: Tracer) -> None:
    with tracer.span("outer") as outer:
        with tracer.span("inner") as inner:
            assert active_trace() == inner.place
        assert active_trace() == outer.place
    assert active_trace() is None
    inner_record, outer_record = tracer.buffer.take()
    assert inner_record[1].parent_id == outer_record[2]
    assert inner_record[1].trace_id == outer_record[1].trace_id


@pytest.mark.parametrize("in_request", [SAMPLED], indirect=True)
def test_the_first_span_of_a_request_hangs_below_the_span_of_the_request(
    tracer: Tracer, in_request: TraceContext
) -> None:
    with tracer.span("query", SpanKind.CLIENT) as span:
        assert isinstance(span, Span)
        assert span.traceparent == f"00-{TRACE}-{span.place.parent_id}-01"
        assert span.tracestate == "a=1"
    (record,) = tracer.buffer.take()
    assert record[1] == TraceContext(TRACE, OWN, 1, "a=1")


@pytest.mark.parametrize("in_request", [NOT_SAMPLED], indirect=True)
def test_a_request_that_is_not_sampled_records_nothing_and_passes_its_trace_on(
    tracer: Tracer, in_request: TraceContext
) -> None:
    with tracer.span("query", SpanKind.CLIENT) as span:
        assert span.traceparent == f"00-{TRACE}-{OWN}-00"
        assert span.tracestate == "a=1"
    assert not tracer.buffer.take()


def test_a_parent_that_came_with_a_message_decides_whether_it_is_recorded(tracer: Tracer) -> None:
    with tracer.span("handler", SpanKind.CONSUMER, parent=SAMPLED):
        assert outgoing_trace() is not None
    with tracer.span("handler", SpanKind.CONSUMER, parent=NOT_SAMPLED):
        assert outgoing_trace() == (f"00-{TRACE}-{PARENT}-00", "a=1")
        with tracer.span("query"):
            pass
    assert names(tracer) == ["handler"]


def test_a_ratio_of_traces_is_recorded_as_a_whole() -> None:
    tracer = Tracer(SpanBuffer(100_000), ratio=0.25)
    for _ in range(4000):
        with tracer.span("outer") as outer, tracer.span("inner") as inner:
            assert outer.recorded == inner.recorded
            assert outer.traceparent is not None
            assert outer.traceparent.endswith("-03" if outer.recorded else "-02")
    found = names(tracer)
    assert found.count("outer") == found.count("inner")
    assert 800 < found.count("outer") < 1200  # 1000 expected; 7 standard deviations


@pytest.mark.parametrize(("ratio", "recorded"), [(0.0, 0), (1.0, 100)])
def test_all_or_none(ratio: float, recorded: int) -> None:
    tracer = Tracer(SpanBuffer(), ratio=ratio)
    for _ in range(100):
        with tracer.span("one"):
            pass
    assert len(tracer.buffer) == recorded


def test_an_exception_makes_the_span_an_error_and_goes_on(tracer: Tracer) -> None:
    with pytest.raises(LookupError), tracer.span("one"):
        raise LookupError("a secret")
    (record,) = tracer.buffer.take()
    assert record[7] == {"error.type": "LookupError"}
    assert record[8] == "LookupError"
    assert current_span.get() is None


def test_a_task_hangs_below_the_span_it_was_made_in(tracer: Tracer) -> None:
    async def main() -> None:
        async def work() -> None:
            with tracer.span("work"):
                await asyncio.sleep(0)

        with tracer.span("outer"):
            task = asyncio.create_task(work())
        await task

    asyncio.run(main())
    outer, work = tracer.buffer.take()
    assert (outer[4], work[4]) == ("outer", "work")
    assert work[1].parent_id == outer[2]


def test_a_full_buffer_drops_and_counts(tracer: Tracer) -> None:
    buffer = SpanBuffer(limit=3, batch=2)
    told: list[int] = []
    buffer.on_full = lambda: told.append(len(buffer))
    for number in range(5):
        buffer.add(("span", number))
    assert (len(buffer), buffer.dropped, told) == (3, 2, [2])
    assert [record[1] for record in buffer.take()] == [0, 1, 2]
    buffer.add(("span", 5))
    assert (len(buffer), buffer.dropped) == (1, 2)


def test_ids_are_never_given_twice(tracer: Tracer) -> None:
    found: list[str] = []

    def many() -> None:
        found.extend([tracer.new_ids() for _ in range(5000)])

    threads = [threading.Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 20_000
    assert {len(each) for each in found} == {48}


@pytest.mark.parametrize("in_request", [SAMPLED, NOT_SAMPLED], indirect=True)
def test_without_tracing_the_trace_of_the_caller_passes_through(in_request: TraceContext) -> None:
    current = current_request.get()
    assert current is not None
    current.span_id = ""
    with NoTracer().span("query") as span:
        assert span is UNRECORDED
        assert span.traceparent is not None
        assert span.traceparent.startswith(f"00-{TRACE}-")
        assert PARENT not in span.traceparent
        assert span.traceparent.endswith(f"-0{in_request.flags}")
        assert span.tracestate == "a=1"


def test_without_a_trace_nothing_is_passed_on() -> None:
    assert outgoing_trace() is None
    assert NoTracer().span("query").traceparent is None


@pytest.mark.parametrize(
    ("tracestate", "kept"),
    [
        ("congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
        (b"a=1,,b=2 ", "a=1,,b=2"),
        ("", ""),
        ("a=" + "x" * 511, ""),  # too long
        ("a=1\r\nx-injected: 1", ""),
        ("a=é", ""),
    ],
)
def test_the_tracestate_is_passed_on_as_it_came_or_not_at_all(tracestate: str | bytes, kept: str) -> None:
    trace = read_trace(f"00-{TRACE}-{PARENT}-01", tracestate)
    assert trace is not None
    assert trace.state == kept
    assert read_trace("00-not-valid", tracestate) is None
