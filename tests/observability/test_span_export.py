"""The exporter: batches, the end, secrets in texts, and processes that the application forks."""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pywatt_host.build.tracing import HostTracing, NoTracing, make_tracing
from pywatt_host.build.worker_spans import WorkerSpanSink
from pywatt_host.manifest import Source, load
from pywatt_host.observability.otlp import SpanEncoder
from pywatt_host.observability.span_export import SpanExport
from pywatt_host.observability.span_sender import SpanCounts
from pywatt_host.observability.spans import SpanBuffer, Tracer
from pywatt_host.secrets import Masker
from tests.hosting import PATIENCE, run


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self, largest: int = 10**6) -> None:
        self.largest = largest
        self.pieces: list[tuple[bytes, int]] = []
        self.closed = False
        self.arrived = asyncio.Event()

    def put(self, encoded: bytes, spans: int) -> None:
        self.pieces.append((encoded, spans))
        self.arrived.set()

    async def close(self, seconds: float) -> None:
        self.closed = True
        self.seconds = seconds

    def names(self) -> list[str]:
        found = ExportTraceServiceRequest.FromString(b"".join(piece for piece, _ in self.pieces))
        return [span.name for each in found.resource_spans for scope in each.scope_spans for span in scope.spans]


class Exporting:
    def __init__(self, sink: Kept, delay: float = 3600.0, batch: int = 512, left: float = 25.0) -> None:
        self.buffer = SpanBuffer(10_000, batch)
        self.tracer = Tracer(self.buffer)
        self.masker = Masker()
        self.counts = SpanCounts()
        self.export = SpanExport(
            self.buffer, SpanEncoder(self.masker.mask), {"service.name": "x"}, [sink], self.counts, version="1",
            delay=delay, batch=batch, time_left=lambda: left, secrets_version=lambda: self.masker.version,
        )  # fmt: skip

    def record(self, *names: str) -> None:
        for name in names:
            with self.tracer.span(name):
                pass


def test_spans_leave_after_the_delay_or_as_soon_as_a_batch_is_there_and_the_rest_at_the_end() -> None:
    sink = Kept()

    async def main() -> None:
        exporting = Exporting(sink, batch=3)
        async with asyncio.TaskGroup() as tasks, exporting.export.running(tasks):
            exporting.record("a", "b", "c")
            async with asyncio.timeout(PATIENCE):
                await sink.arrived.wait()
            exporting.record("d")
        assert sink.names() == ["a", "b", "c", "d"]
        assert sink.closed
        assert sink.seconds == 2.0

    run(main)


def test_many_spans_are_encoded_in_slices_and_other_work_runs_in_between() -> None:
    sink, turns = Kept(), 0

    async def main() -> None:
        nonlocal turns
        exporting = Exporting(sink, batch=100)
        exporting.record(*(str(number) for number in range(1000)))
        flushing = asyncio.ensure_future(exporting.export.flush())
        while not flushing.done():
            turns += 1
            await asyncio.sleep(0)

    run(main)
    assert [spans for _, spans in sink.pieces] == [100] * 10
    assert turns >= 10


def test_the_end_takes_no_longer_than_what_is_left() -> None:
    sink = Kept()

    async def main() -> None:
        exporting = Exporting(sink, left=0.0)
        async with asyncio.TaskGroup() as tasks, exporting.export.running(tasks):
            pass

    run(main)
    assert sink.seconds == 0.1


def test_a_piece_that_is_too_long_is_divided_and_a_span_that_is_too_long_is_dropped() -> None:
    sink = Kept(largest=500)

    async def main() -> None:
        exporting = Exporting(sink)
        exporting.record(*"abcdefgh", "x" * 600)
        await exporting.export.flush()
        assert exporting.counts.dropped["queue_full"] == 1

    run(main)
    assert sink.names() == list("abcdefgh")
    assert len(sink.pieces) > 1


def test_a_span_that_cannot_be_encoded_stops_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Kept()

    async def main() -> None:
        exporting = Exporting(sink)

        def mask(text: str) -> str:
            if text == "bad":
                raise LookupError
            return text

        exporting.export._encoder = SpanEncoder(mask)
        for name in ("bad", "bad", "good"):
            with exporting.tracer.span("x", attributes={"note": name}):
                pass
            await exporting.export.flush()
        assert exporting.counts.dropped["export_failed"] == 2

    run(main)
    assert sink.names() == ["x"]
    assert [each.message for each in caplog.records] == ["1 spans could not be encoded; this is logged once"]


def test_a_secret_that_is_new_is_masked_in_texts_that_were_seen_before() -> None:
    sink = Kept()

    async def main() -> None:
        exporting = Exporting(sink)
        for _ in range(2):
            with exporting.tracer.span("s", attributes={"text": "hunter22-hunter22"}):
                pass
            await exporting.export.flush()
            exporting.masker.add("PASSWORD", "hunter22-hunter22")

    run(main)
    first, second = (piece for piece, _ in sink.pieces)
    assert b"hunter22" in first
    assert b"hunter22" not in second
    assert b"***" in second


def tracing(**environ: str) -> HostTracing | NoTracing:
    manifest = load(Source.of_text("app: main:app\n"), environ={}).manifest
    return make_tracing(manifest, environ, masker=Masker(), secret_values=dict, time_left=lambda: 1.0)


def test_tracing_is_off_without_a_key_or_a_variable() -> None:
    assert isinstance(tracing(), NoTracing)
    assert isinstance(tracing(OTEL_TRACES_EXPORTER="none"), NoTracing)
    assert isinstance(tracing(OTEL_SERVICE_NAME="x"), NoTracing)
    assert isinstance(tracing(OTEL_TRACES_EXPORTER="otlp"), HostTracing)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_that_are_forked_share_no_ids_and_keep_no_spans() -> None:
    """A stock of ids that each of them had would make the same traces in all of them."""
    made: Any = tracing(OTEL_TRACES_EXPORTER="otlp").tracer
    made.new_span_id()  # there is a stock now
    with made.span("before"):
        pass
    found: list[tuple[list[str], int]] = []
    for _ in range(2):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            with made.span("in the fork"):
                pass
            os.write(writer, pickle.dumps(([made.new_ids() for _ in range(10)], len(made.buffer))))
            os._exit(0)
        os.close(writer)
        with open(reader, "rb") as answer:
            found.append(pickle.loads(answer.read()))
        os.waitpid(pid, 0)
    ours = [made.new_ids() for _ in range(300)]
    every = [*ours, *found[0][0], *found[1][0]]
    assert len(set(every)) == len(every)
    assert [kept for _, kept in found] == [0, 0]
    assert len(made.buffer) == 1


def test_a_worker_hands_its_spans_over_and_tells_what_it_has_dropped() -> None:
    told: list[tuple[int, int]] = []
    takes = [False, False, True, True]

    def hand(encoded: bytes, spans: int, dropped: int) -> bool:
        if takes[0]:
            told.append((spans, dropped))
        return takes.pop(0)

    counts, dropped_before = SpanCounts(), 7
    sink = WorkerSpanSink(hand, 16 * 1024, 10**6, counts, lambda: dropped_before)
    assert sink.largest < 16 * 1024 * 3 // 4
    for spans in (1, 2, 3, 4):
        sink.put(b"", spans)
    assert told == [(3, 10), (4, 0)]


def test_a_stop_between_two_slices_loses_no_span() -> None:
    class Sink:
        largest = 10**9
        spans = 0

        def __init__(self) -> None:
            self.some = asyncio.Event()

        def put(self, encoded: bytes, spans: int) -> None:
            self.spans += spans
            self.some.set()

        async def close(self, seconds: float) -> None:
            return

    async def main() -> None:
        sink, buffer = Sink(), SpanBuffer(10_000, 10_000)
        tracer = Tracer(buffer)
        export = SpanExport(
            buffer, SpanEncoder(), {}, [sink], SpanCounts(), version="1", delay=0.01, batch=10,
            time_left=lambda: 1.0, secrets_version=lambda: 0,
        )  # fmt: skip
        async with asyncio.TaskGroup() as tasks, export.running(tasks):
            for _ in range(1000):
                with tracer.span("one"):
                    pass
            await sink.some.wait()
        assert sink.spans == 1000

    run(main)
