"""Metrics as text (Prometheus 0.0.4 and OpenMetrics 1.0), which prometheus-client writes from a registry of the host.

This module is imported by the first scrape or the first metric of the application.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar

from pywatt_host.observability.last_gauge import LastGauge
from pywatt_host.observability.metrics import GAUGE_MODES, Family, GaugeMode, Histogram, RequestMetrics

# A version on which prometheus-client would fail, or which it would return unchecked.
_ODD_VERSION = re.compile(r"version=(?![0-9]{1,3}(\.[0-9]{1,3}){0,2}\s*(;|$))")


class _Shape(NamedTuple):
    """What a name is registered as. `mode` is for gauges."""

    kind: str
    labels: tuple[str, ...]
    buckets: tuple[float, ...] | None
    mode: GaugeMode | None

    def __str__(self) -> str:
        mode = f" of mode {self.mode!r}" if self.mode is not None else ""
        return f"{self.kind.lower()}{mode} with the labels {list(self.labels)}"


class GaugeFamily(GaugeMetricFamily):
    """A gauge of the host itself, with its mode."""

    def __init__(self, name: str, doc: str, labels: Sequence[str], mode: GaugeMode) -> None:
        super().__init__(name, doc, labels=labels)
        self.mode = mode


class Collects(Protocol):
    """What can be rendered."""

    def collect(self) -> Iterable[Metric]: ...


class MetricsRegistry:
    """The metrics of one process: those of the application, the process and the requests. `id` tells it from the
    registry of any other process."""

    def __init__(self) -> None:
        self.id = os.urandom(8).hex()
        self._registry = CollectorRegistry(auto_describe=False)
        self._made: dict[str, tuple[_Shape, Any]] = {}
        self._lock = threading.Lock()
        prometheus_client.ProcessCollector(registry=self._registry)
        prometheus_client.PlatformCollector(registry=self._registry)
        prometheus_client.GCCollector(registry=self._registry)

    def register(self, collector: Collector) -> None:
        self._registry.register(collector)

    def metric(
        self,
        kind: str,
        name: str,
        doc: str,
        labels: Sequence[str],
        buckets: Sequence[float] | None = None,
        mode: GaugeMode | None = None,
    ) -> Any:
        """The metric of this name, created where it does not exist. Raises ValueError where it exists as another kind,
        or with another mode, other labels or other buckets."""
        if mode is not None and mode not in GAUGE_MODES:
            raise ValueError(f"metric {name!r}: {mode!r} is not a mode of gauges (sum, max, last)")
        wanted = _Shape(kind, tuple(labels), tuple(buckets) if buckets is not None else None, mode)
        with self._lock:
            if name in self._made:
                existing, metric = self._made[name]
                if existing != wanted:
                    raise ValueError(f"metric {name!r} exists already, as a {existing}")
                return metric
            options = {"buckets": wanted.buckets} if wanted.buckets is not None else {}
            make = LastGauge if mode == "last" else getattr(prometheus_client, kind)
            metric = make(name, doc or name, wanted.labels, registry=self._registry, **options)
            self._made[name] = (wanted, metric)
            return metric

    def collect(self) -> Iterator[Metric]:
        yield from self._registry.collect()

    def mode(self, family: Metric) -> GaugeMode:
        """The mode of a gauge that `collect` has yielded."""
        if isinstance(family, GaugeFamily):
            return family.mode
        shape, _ = self._made.get(family.name, (None, None))
        return shape.mode if shape is not None and shape.mode is not None else "sum"

    def changed(self, family: Metric, labels: Mapping[str, str]) -> float:
        """When a series of a gauge of mode `last` was last set, on the monotonic clock of the machine."""
        _, gauge = self._made[family.name]
        return gauge.changed_at(labels)  # type: ignore[no-any-return]


class _Labelled:
    """A registry that adds constant labels to each sample."""

    def __init__(self, registry: Collects, labels: Mapping[str, str]) -> None:
        self._registry = registry
        self._labels = dict(labels)

    def collect(self) -> Iterable[Metric]:
        for family in self._registry.collect():
            labelled = Metric(family.name, family.documentation, family.type, family.unit)
            labelled.samples = [sample._replace(labels={**self._labels, **sample.labels}) for sample in family.samples]
            yield labelled


def render(registry: Collects, labels: Mapping[str, str], accept: str) -> tuple[bytes, str]:
    """The text and its content type, in the format that the Accept header asks for. This takes milliseconds: call it in
    a thread."""
    wanted = ",".join(part for part in accept.split(",") if not _ODD_VERSION.search(part))
    encoder, content_type = choose_encoder(wanted)
    source: Any = _Labelled(registry, labels) if labels else registry
    return encoder(source), content_type


class RequestCollector(Collector):
    """Turns the counters of requests into the `http_server_*` families."""

    def __init__(self, metrics: RequestMetrics, active: Callable[[], int]) -> None:
        self._metrics = metrics
        self._active = active

    def describe(self) -> Iterator[Metric]:
        """The names that are taken, so that the application cannot register them again."""
        yield _durations()
        yield _active(0)

    def collect(self) -> Iterator[Metric]:
        durations = _durations()
        bounds = [*(str(float(bound)) for bound in self._metrics.bounds), "+Inf"]
        for cells in self._metrics:
            exemplars = dict(cells.exemplars)
            for (method, status), cell in tuple(cells.by.items()):
                buckets: list[Any] = _buckets(bounds, cell[:-1])
                for number in range(len(buckets) if exemplars else 0):
                    found = exemplars.get((method, status, number))
                    if found is not None:
                        trace_id, span_id, seconds, when = found
                        labels = {"trace_id": trace_id, "span_id": span_id}
                        buckets[number] = (*buckets[number], Exemplar(labels, seconds, when))
                durations.add_metric((method, cells.route, str(status)), buckets, cell[-1])
        yield durations
        yield _active(self._active())


class FamilyCollector(Collector):
    """Turns the numbers of other parts of the host into metric families."""

    def __init__(self, families: Callable[[], Iterable[Family | Histogram]]) -> None:
        self._families = families

    def describe(self) -> Iterator[Metric]:
        yield from self.collect()

    def collect(self) -> Iterator[Metric]:
        for each in self._families():
            if isinstance(each, Histogram):
                yield _histogram(each)
                continue
            family: CounterMetricFamily | GaugeFamily = (
                CounterMetricFamily(each.name, each.doc, labels=each.labels)
                if each.kind == "counter"
                else GaugeFamily(each.name, each.doc, each.labels, each.mode)
            )
            for label_values, value in each.values.items():
                family.add_metric(label_values, value)
            yield family


def _histogram(histogram: Histogram) -> HistogramMetricFamily:
    family = HistogramMetricFamily(histogram.name, histogram.doc, labels=histogram.labels)
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    for labels, cell in histogram.values.items():
        family.add_metric(labels, _buckets(bounds, cell[:-1]), cell[-1])
    return family


def _buckets(bounds: Sequence[str], counts: Sequence[float]) -> list[tuple[str, float]]:
    return list(zip(bounds, accumulate(counts), strict=True))


def _durations() -> HistogramMetricFamily:
    return HistogramMetricFamily(
        "http_server_request_duration_seconds",
        "Duration of HTTP server requests, from the request head to the end of the response.",
        labels=("http_request_method", "http_route", "http_response_status_code"),
    )


def _active(running: int) -> GaugeMetricFamily:
    return GaugeMetricFamily("http_server_active_requests", "Requests that run right now.", value=float(running))
