"""The tracing of a host: its tracer, and what sends its spans. Where it is off, nothing of it is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import ref

from pywatt_host.manifest.model import Manifest
from pywatt_host.observability.metrics import Family
from pywatt_host.observability.spans import AnyTracer, NoTracer, SpanBuffer, Tracer
from pywatt_host.secrets import Masker

if TYPE_CHECKING:
    from pywatt_host.observability.span_export import SpanExport
    from pywatt_host.observability.span_sender import SpanCounts, SpanSink
    from pywatt_host.observability.trace_settings import TraceSettings

logger = logging.getLogger("pywatt.traces")

# Each of these may switch tracing on where the manifest does not say anything about it.
_SWITCHES = (
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "PYWATT_COLLECTOR",
)  # fmt: skip


class NoTracing:
    """Stands in where tracing is off."""

    tracer: AnyTracer = NoTracer()
    service: SpanExport | None = None

    def families(self) -> Iterator[Family]:
        return iter(())


class HostTracing:
    """The tracer of a host, the service that exports its spans, and the metrics of that."""

    def __init__(self, settings: TraceSettings, service: SpanExport, tracer: Tracer, counts: SpanCounts) -> None:
        self.settings = settings
        self.service: SpanExport | None = service
        self.tracer: AnyTracer = tracer
        self.counts = counts
        for warning in settings.warnings:
            logger.warning("%s", warning)

    def families(self) -> Iterator[Family]:
        assert self.service is not None
        return self.service.families()


def make_tracing(
    manifest: Manifest,
    environ: Mapping[str, str],
    *,
    masker: Masker,
    secret_values: Callable[[], Mapping[str, str]],
    time_left: Callable[[], float],
    worker: int | None = None,
    sink: Callable[[SpanCounts], SpanSink] | None = None,
) -> HostTracing | NoTracing:
    """The tracing that the manifest and the variables OTEL_* ask for. `secret_values` is called when spans are sent,
    `time_left` when the host stops. `sink` makes what takes the spans of a worker in place of endpoints; its number is
    `worker`."""
    tracing = manifest.tracing
    wanted = tracing.enabled if tracing is not None else any(environ.get(name) for name in _SWITCHES)
    if not wanted:
        return NoTracing()
    load: Callable[[str], Any] = lambda name: import_module(f"pywatt_host.observability.{name}")  # noqa: E731
    version = import_module("pywatt_host").__version__
    found = load("trace_settings")
    settings: TraceSettings = found.read_settings(
        tracing,
        environ,
        name=manifest.module_id,
        version=manifest.module.version or "",
        directory=manifest.directory,
        sdk=version,
    )
    if not settings.destinations:
        for warning in settings.warnings:
            logger.warning("%s", warning)
        return NoTracing()
    sending = load("span_sender")
    counts: SpanCounts = sending.SpanCounts()
    if sink is not None:
        sinks = [sink(counts)]
    else:
        sinks = []
        for destination in settings.destinations:
            for name, value in destination.headers.items():
                if isinstance(value, str):
                    masker.add(f"tracing.headers.{name}", value)
            sinks.append(
                sending.SpanSender(
                    destination,
                    lambda destination=destination: found.rendered(destination.headers, secret_values()),
                    counts,
                    settings.batching,
                    f"pywatt-host/{version}",
                )
            )
    buffer = SpanBuffer(settings.batching.queue, settings.batching.batch)
    tracer = Tracer(buffer, settings.ratio, parent_based=settings.parent_based)
    encoder = load("otlp").SpanEncoder(masker.mask, **({"longest": settings.longest} if settings.longest else {}))
    resource = settings.resource if worker is None else {**settings.resource, "pywatt.worker": worker}
    service: SpanExport = load("span_export").SpanExport(
        buffer,
        encoder,
        resource,
        sinks,
        counts,
        version=version,
        delay=settings.batching.delay,
        batch=settings.batching.batch,
        time_left=time_left,
        secrets_version=lambda: masker.version,
    )
    _forget_in_forks(tracer)
    return HostTracing(settings, service, tracer, counts)


def _forget_in_forks(tracer: Tracer) -> None:
    """A process that the application forks makes ids of its own, and keeps no spans: nothing would send them."""
    tracer_of = ref(tracer)

    def forget() -> None:
        found = tracer_of()
        if found is not None:
            found.ids.clear()
            found.buffer.close()

    os.register_at_fork(after_in_child=forget)
