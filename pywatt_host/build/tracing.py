"""The tracing of a host: its tracer, and what sends its spans. Where it is off, nothing of it is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import ref

from pywatt_host.build.worker_spans import HandSpans, WorkerSpanSink
from pywatt_host.manifest.model import Manifest
from pywatt_host.observability.metrics import Family
from pywatt_host.observability.spans import AnyTracer, NoTracer, SpanBuffer, Tracer
from pywatt_host.secrets import Masker

if TYPE_CHECKING:
    from pywatt_host.observability.span_export import SpanExport
    from pywatt_host.observability.span_sender import SpanCounts, SpanSink
    from pywatt_host.observability.trace_settings import Destination, TraceSettings

logger = logging.getLogger("pywatt.traces")

# Each of these may switch tracing on where the manifest does not say anything about it.
_SWITCHES = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "PYWATT_COLLECTOR",
)  # fmt: skip


class NoTracing:
    """Stands in where tracing is off."""

    tracer: AnyTracer = NoTracer()
    service: SpanExport | None = None
    counts: SpanCounts | None = None

    def take(self, encoded: bytes, spans: int, dropped: int) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())


class HostTracing:
    """The tracer of a host, the service that exports its spans, and the metrics of that."""

    def __init__(
        self,
        settings: TraceSettings,
        counts: SpanCounts,
        sinks: Callable[[SpanBuffer], Sequence[SpanSink]],
        *,
        masker: Masker,
        time_left: Callable[[], float],
        worker: int | None,
    ) -> None:
        batching = settings.batching
        buffer = SpanBuffer(batching.queue, batching.slice)
        tracer = Tracer(buffer, settings.ratio, parent_based=settings.parent_based)
        _forget_in_forks(tracer)
        self.tracer: AnyTracer = tracer
        self.counts: SpanCounts | None = counts
        self._sinks = sinks(buffer)
        self._is_worker = worker is not None
        encoder = _load("otlp").SpanEncoder
        self.service: SpanExport | None = _load("span_export").SpanExport(
            buffer,
            encoder(masker.mask) if settings.longest is None else encoder(masker.mask, settings.longest),
            settings.resource if worker is None else {**settings.resource, "pywatt.worker": worker},
            self._sinks,
            counts,
            version=_version(),
            delay=batching.delay,
            batch=batching.slice,
            time_left=time_left,
            secrets_version=lambda: masker.version,
        )

    def take(self, encoded: bytes, spans: int, dropped: int) -> None:
        """Send what a worker hands over."""
        assert self.counts is not None
        self.counts.drop("queue_full", dropped)
        for sink in self._sinks:
            sink.put(encoded, spans)

    def families(self) -> Iterator[Family]:
        """Its metrics. The supervisor has those of workers."""
        if self.service is not None and not self._is_worker:
            yield from self.service.families()


AnyTracing: TypeAlias = HostTracing | NoTracing


def make_tracing(
    manifest: Manifest,
    environ: Mapping[str, str],
    *,
    masker: Masker,
    secret_values: Callable[[], Mapping[str, str]],
    time_left: Callable[[], float],
    counts: SpanCounts | None = None,
    worker: int | None = None,
    hand_spans: HandSpans | None = None,
) -> AnyTracing:
    """The tracing that the manifest and the variables OTEL_* ask for. `secret_values` is called when spans are sent,
    `time_left` when the host stops. `counts` counts on where another tracing of the host has ended. A worker has a
    number, and `hand_spans` gives its spans to the supervisor."""
    tracing = manifest.tracing
    if not (tracing.enabled if tracing is not None else any(environ.get(name) for name in _SWITCHES)):
        return NoTracing()
    settings: TraceSettings = _load("trace_settings").read_settings(
        tracing,
        environ,
        name=manifest.module_id,
        version=manifest.module.version or "",
        directory=manifest.directory,
        sdk=_version(),
    )
    for warning in settings.warnings if hand_spans is None else ():
        logger.warning("%s", warning)
    if not settings.destinations:
        return NoTracing()
    sending = _load("span_sender")
    counted: SpanCounts = counts or sending.SpanCounts()

    def sinks(buffer: SpanBuffer) -> Sequence[SpanSink]:
        if hand_spans is not None:
            frame = manifest.channels.limits.frame
            return [WorkerSpanSink(hand_spans, frame, sending.MOST_BYTES, counted, lambda: buffer.dropped)]
        return [_sender(each, settings, masker, secret_values, counted) for each in settings.destinations]

    return HostTracing(settings, counted, sinks, masker=masker, time_left=time_left, worker=worker)


def _sender(
    destination: Destination,
    settings: TraceSettings,
    masker: Masker,
    secret_values: Callable[[], Mapping[str, str]],
    counts: SpanCounts,
) -> SpanSink:
    for name, value in destination.headers.items():
        if isinstance(value, str):
            masker.add(f"tracing.headers.{name}", value)
    rendered = _load("trace_settings").rendered
    sink: SpanSink = _load("span_sender").SpanSender(
        destination,
        lambda: rendered(destination.headers, secret_values()),
        counts,
        settings.batching,
        f"pywatt-host/{_version()}",
    )
    return sink


def _load(name: str) -> Any:
    return import_module(f"pywatt_host.observability.{name}")


def _version() -> str:
    return str(import_module("pywatt_host").__version__)


def _forget_in_forks(tracer: Tracer) -> None:
    """A process that the application forks makes ids of its own, and keeps no spans: nothing would send them."""
    tracer_of = ref(tracer)

    def forget() -> None:
        found = tracer_of()
        if found is not None:
            found.ids.clear()
            found.buffer.close()

    os.register_at_fork(after_in_child=forget)
