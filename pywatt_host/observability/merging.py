"""How the series of several processes become one: what counts is added, and a gauge goes by its mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from prometheus_client.core import Metric
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from pywatt_host.observability.metrics import GaugeMode

COUNTING = frozenset(("counter", "histogram", "summary"))  # types whose series only grow

Labels: TypeAlias = tuple[tuple[str, str], ...]


class Counted(NamedTuple):
    """A series of a counter, a histogram or a summary.

    `number` is the value of a counter, and else the number of observations. `total` is the sum of the observations
    (None: there is none). `created` is when the series began, in Unix time. `buckets` are the cumulative counts by
    upper bound, and `exemplars` an observation of some of them.
    """

    number: float
    total: float | None
    created: float | None
    buckets: Mapping[float, float]
    exemplars: Mapping[float, Exemplar] = MappingProxyType({})

    def plus(self, other: Counted) -> Counted:
        """Both together. The sum began when the first of them began."""
        return Counted(
            self.number + other.number,
            None if self.total is None or other.total is None else self.total + other.total,
            min((each for each in (self.created, other.created) if each is not None), default=None),
            _joined(self.buckets, other.buckets) if self.buckets or other.buckets else self.buckets,
            _newest(self.exemplars, other.exemplars) if self.exemplars or other.exemplars else self.exemplars,
        )


def _newest(some: Mapping[float, Exemplar], others: Mapping[float, Exemplar]) -> Mapping[float, Exemplar]:
    """The exemplar of each bucket that was observed last."""
    found = dict(some)
    for bound, exemplar in others.items():
        known = found.get(bound)
        if known is None or float(exemplar.timestamp or 0.0) >= float(known.timestamp or 0.0):
            found[bound] = exemplar
    return found


def _joined(some: Mapping[float, float], others: Mapping[float, float]) -> dict[float, float]:
    """The sums of cumulative counts. Where the bounds differ, the sum has the bounds of both. A count at a bound that
    its histogram does not have is the one at the next lower bound that it has: all of those observations are surely
    below. So no bucket ever goes back, the buckets only grow with their bounds, and the last one is exact."""
    if some.keys() == others.keys():
        return {bound: count + others[bound] for bound, count in some.items()}
    joined, here, there = {}, 0.0, 0.0
    for bound in sorted(some.keys() | others.keys()):
        here, there = some.get(bound, here), others.get(bound, there)
        joined[bound] = here + there
    return joined


class Value(NamedTuple):
    """A series of any other type. `changed` is when it was set, for gauges of mode `last`."""

    value: float
    changed: float = 0.0


def merged(mode: GaugeMode, value: Value, other: Value) -> Value:
    """What a host shows of two workers' values."""
    if mode == "sum":
        return Value(value.value + other.value)
    if mode == "last":
        return other if other.changed > value.changed else value
    is_nan = value.value != value.value
    return other if is_nan or other.value > value.value else value


class Kind(NamedTuple):
    """What is said about a family, apart from its series."""

    type: str
    doc: str
    unit: str
    mode: GaugeMode


class Told(NamedTuple):
    """A family as one process has told it. `values` are by suffix of the name and labels."""

    kind: Kind
    counted: dict[Labels, Counted]
    values: dict[tuple[str, Labels], Value]


def read(family: Mapping[str, Any]) -> Told:
    """A family of a snapshot."""
    kind = Kind(family["type"], family["doc"], family["unit"], family["mode"])
    told = Told(kind, {}, {})
    if kind.type in COUNTING:
        for labels, number, total, created, buckets, exemplars in family["series"]:
            told.counted[tuple(sorted(labels.items()))] = Counted(
                float(number),
                None if total is None else float(total),
                None if created is None else float(created),
                {float(bound): float(below) for bound, below in buckets.items()},
                {float(bound): Exemplar(each[0], float(each[1]), each[2]) for bound, each in exemplars.items()},
            )
    else:
        for suffix, labels, value, changed in family["series"]:
            told.values[suffix, tuple(sorted(labels.items()))] = Value(float(value), changed)
    return told


def family_of(name: str, kind: Kind, past: Mapping[Labels, Counted], told: Iterable[Told]) -> Metric:
    """One family from those of several processes, which are all of this kind, and from what others counted before."""
    metric = Metric(name, kind.doc, kind.type, kind.unit)
    if kind.type in COUNTING:
        counted = dict(past)
        for each in told:
            for labels, series in each.counted.items():
                known = counted.get(labels)
                counted[labels] = series if known is None else known.plus(series)
        for labels, series in counted.items():
            metric.samples += _samples(name, kind.type, labels, series)
        return metric
    values: dict[tuple[str, Labels], Value] = {}
    for each in told:
        for key, value in each.values.items():
            there = values.get(key)
            values[key] = value if there is None else merged(kind.mode, there, value)
    metric.samples = [Sample(name + suffix, dict(labels), value.value) for (suffix, labels), value in values.items()]
    return metric


def _samples(name: str, kind: str, pairs: Labels, series: Counted) -> Iterable[Sample]:
    labels = dict(pairs)
    if kind == "counter":
        yield Sample(f"{name}_total", labels, series.number)
    else:
        for bound, below in series.buckets.items():
            found = series.exemplars.get(bound)
            yield Sample(f"{name}_bucket", {**labels, "le": _text(bound)}, below, exemplar=found)
        yield Sample(f"{name}_count", labels, series.number)
        if series.total is not None:
            yield Sample(f"{name}_sum", labels, series.total)
    if series.created is not None:
        yield Sample(f"{name}_created", labels, series.created)


def _text(bound: float) -> str:
    text: str = floatToGoString(bound)  # type: ignore[no-untyped-call]
    return text
