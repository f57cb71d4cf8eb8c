"""The metrics of a host with several workers: what each worker counts, as plain data, and the sum of it.

A snapshot is what a worker has counted so far. `MergedMetrics` keeps the newest one of each worker and, as one
document, what workers counted that have ended: counters, histograms and summaries never go back, whichever worker ends
or starts. Gauges belong to the workers that run, and are merged by their mode.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

from prometheus_client.core import Metric

from pywatt_host.observability.exposition import FamilyCollector, MetricsRegistry, render
from pywatt_host.observability.merging import COUNTING, Counted, Kind, Labels, Told, family_of, read
from pywatt_host.observability.metrics import Family, Histogram

logger = logging.getLogger("pywatt.host")

# Of these families, the supervisor's own are the host's. In a worker, channels lead to the supervisor, a rotation
# repeats the supervisor's, and the start of the process is not that of the host.
OF_HOST = frozenset(
    (
        "process_start_time_seconds",
        "pywatt_channel_connected",
        "pywatt_channel_reconnects",
        "pywatt_channel_peers",
        "pywatt_channel_refused",
        "pywatt_peer_connected",
        "pywatt_secret_rotations",
    )
)
_ONE_OF_ALL = frozenset(("info", "stateset"))  # types whose values are 0 or 1, whatever the number of workers
_ONE_BY_NAME = frozenset(("python_info",))  # the same, told as a gauge


def snapshot(registry: MetricsRegistry) -> list[dict[str, Any]]:
    """What a registry counts now, as data that can be sent as JSON. The first entry says which registry it is.

    A family has `name`, `type`, `doc`, `unit`, `mode` and `series`. For counters, histograms and summaries, a series is
    [labels, number, sum, created, buckets, exemplars], else it is [suffix, labels, value, changed]. `exemplars` has
    [labels, value, time] by bucket. A number that JSON does not have is text, such as "nan". Timestamps and quantiles
    are left out. This takes milliseconds: call it in a
    thread. Raises what a collector of the application raises.
    """
    return [{"registry": registry.id}, *(_family(registry, metric) for metric in registry.collect())]


def _family(registry: MetricsRegistry, metric: Metric) -> dict[str, Any]:
    mode = "max" if metric.type in _ONE_OF_ALL or metric.name in _ONE_BY_NAME else registry.mode(metric)
    series: Any
    if metric.type in COUNTING:
        series = _counted(metric)
    else:
        start = len(metric.name)
        series = [
            [
                sample.name[start:],
                sample.labels,
                _number(sample.value),
                registry.changed(metric, sample.labels) if mode == "last" else 0.0,
            ]
            for sample in metric.samples
            if sample.value is not None
        ]
    return {
        "name": metric.name,
        "type": metric.type,
        "doc": metric.documentation,
        "unit": metric.unit,
        "mode": mode,
        "series": series,
    }


def _counted(metric: Metric) -> list[list[Any]]:
    start = len(metric.name)
    found: dict[tuple[Any, ...], list[Any]] = {}
    for name, labels, value, _, exemplar, *_ in metric.samples:
        suffix = name[start:]
        if "quantile" in labels or value is None:
            continue
        bound = None
        if suffix == "_bucket":
            labels = dict(labels)
            bound = labels.pop("le")
        key = tuple(labels.items())
        entry = found.get(key)
        if entry is None:
            entry = found[key] = [labels, 0, None, None, {}, {}]
        if bound is not None:
            entry[4][bound] = _number(value)
            if exemplar is not None:
                entry[5][bound] = [exemplar.labels, _number(exemplar.value), float(exemplar.timestamp or 0.0)]
        elif suffix == "_sum":
            entry[2] = _number(value)
        elif suffix == "_created":
            entry[3] = _number(value)
        elif suffix in ("", "_total", "_count"):
            entry[1] = _number(value)
        if bound == "+Inf":
            entry[1] = _number(value)
    return list(found.values())


def _number(value: float) -> float | str:
    value = float(value)
    return value if isfinite(value) else str(value)


class _Worker(NamedTuple):
    registry: str
    families: dict[str, Told]


class MergedMetrics:
    """The sum of the metrics of all workers. All methods can be called from any thread, and take milliseconds.

    The past has at most the series that workers had; it does not grow with the number of workers that have ended. A
    series that the application removes is forgotten once no running worker has it.
    """

    def __init__(self, own: MetricsRegistry, of_host: Collection[str] = OF_HOST) -> None:
        """`own` is the registry of the supervisor, which counts like that of a worker. The families named in `of_host`
        come from it alone."""
        self._own = own
        self._of_host = frozenset(of_host)
        self._lock = threading.Lock()
        self._kinds: dict[str, Kind] = {}  # of each family, as the newest worker has it
        self._workers: dict[str, _Worker] = {}
        self._past: dict[str, dict[Labels, Counted]] = {}

    def update(self, worker: str, snapshot: Sequence[Mapping[str, Any]]) -> None:
        """Take the newest snapshot of a worker. Where it is of another process than the one before it, that process has
        ended. It must not be called with an old snapshot after `ended`: that would count twice."""
        registry, *families = snapshot
        told = {each["name"]: read(each) for each in families if each["name"] not in self._of_host}
        with self._lock:
            before = self._workers.get(worker)
            if before is not None and before.registry != registry["registry"]:
                self._end(worker)
                before = None
            self._learn(told, before.families if before is not None else {})
            self._workers[worker] = _Worker(registry["registry"], told)
            if before is not None:
                self._carry(before.families, told)

    def ended(self, worker: str) -> None:
        """A worker has ended: what it has counted stays, its gauges go. Does nothing for a worker without a
        snapshot."""
        with self._lock:
            self._end(worker)

    def collect(self) -> Iterator[Metric]:
        """All families, in the order in which they were first seen."""
        own = {each["name"]: read(each) for each in snapshot(self._own)[1:]}
        with self._lock:
            self._learn({name: told for name, told in own.items() if name not in self._kinds}, {})
            workers = [own, *(worker.families for worker in self._workers.values())]
            merged = []
            for name, kind in self._kinds.items():
                told, past = _of_type(kind, name, workers), self._past.get(name, {})
                if told or past:
                    merged.append(family_of(name, kind, past, told))
        yield from merged

    def render(
        self, families: Iterable[Family | Histogram], labels: Mapping[str, str], accept: str
    ) -> tuple[bytes, str]:
        """The text and its content type, in the format that the Accept header asks for. `families` are further ones of
        the supervisor, in place of those of workers with the same name. `labels` are added to each sample."""
        return render(_With(self, families), labels, accept)

    # With the lock held ---------------------------------------------------------------------------------------------

    def _learn(self, told: Mapping[str, Told], before: Mapping[str, Told]) -> None:
        """Note what families are. Where a worker has a family of another type than it and others had until now, the
        new type counts, and the series of the old one are left out from now on."""
        for name, (kind, _, _) in told.items():
            known = self._kinds.get(name)
            if known is None:
                self._kinds[name] = kind
            elif name not in before or before[name].kind != kind:
                if known.type != kind.type:
                    self._past.pop(name, None)
                    logger.warning(
                        "the metric %s was of type %s and is of type %s in a new worker: the old series are left out",
                        name,
                        known.type,
                        kind.type,
                        extra={"metric": name},
                    )
                self._kinds[name] = kind

    def _end(self, worker: str) -> None:
        ended = self._workers.pop(worker, None)
        if ended is not None:
            for name, told in ended.families.items():
                for labels, series in told.counted.items():
                    self._keep(name, told.kind, labels, series)

    def _keep(self, name: str, kind: Kind, labels: Labels, series: Counted) -> None:
        """Add a series to the past."""
        if self._kinds[name].type == kind.type:
            past = self._past.setdefault(name, {})
            known = past.get(labels)
            past[labels] = series if known is None else known.plus(series)

    def _carry(self, before: Mapping[str, Told], now: Mapping[str, Told]) -> None:
        """Keep what a worker does not tell any more: series that began anew, and series that its application has
        removed, as long as another worker has them."""
        for name, (kind, counted, _) in before.items():
            newer = now[name].counted if name in now else {}
            for labels, series in counted.items():
                current = newer.get(labels)
                if current is None and not self._is_told(name, labels):
                    self._past.get(name, {}).pop(labels, None)
                elif current is None or _began_anew(current, series):
                    self._keep(name, kind, labels, series)

    def _is_told(self, name: str, labels: Labels) -> bool:
        """Whether the newest snapshot of any worker has a series that counts."""
        return any(
            name in worker.families and labels in worker.families[name].counted for worker in self._workers.values()
        )


def _began_anew(current: Counted, before: Counted) -> bool:
    """Whether a series has begun again at 0 since the last snapshot of the same process."""
    return current.number < before.number or current.created != before.created


def _of_type(kind: Kind, name: str, workers: Iterable[Mapping[str, Told]]) -> list[Told]:
    """The families of one name, apart from those of another type."""
    return [families[name] for families in workers if name in families and families[name].kind.type == kind.type]


class _With:
    """What is merged, with further families before it."""

    def __init__(self, merged: MergedMetrics, families: Iterable[Family | Histogram]) -> None:
        self._merged = merged
        self._families = tuple(families)

    def collect(self) -> Iterator[Metric]:
        yield from FamilyCollector(lambda: self._families).collect()
        names = {family.name for family in self._families}
        yield from (metric for metric in self._merged.collect() if metric.name not in names)
