"""Request metrics: a request only increments plain counters; a scrape turns them into samples.

Names and labels are those of OpenTelemetry's HTTP semantic conventions in Prometheus form. The route is always a
declared template or `unmatched`, the method a known one or `_OTHER`, so the number of series is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

UNMATCHED = "unmatched"
KNOWN_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "WEBSOCKET")
)

# Which value a host with several workers shows for a gauge: the sum over its workers, the highest, or the one that was
# set last.
GaugeMode: TypeAlias = Literal["sum", "max", "last"]
GAUGE_MODES: tuple[GaugeMode, ...] = ("sum", "max", "last")


class Family(NamedTuple):
    """A metric that a scrape makes from plain numbers. `values` has the number for each combination of label values;
    `mode` is for gauges, and `sum` or `max`."""

    kind: Literal["counter", "gauge"]
    name: str
    doc: str
    labels: tuple[str, ...]
    values: Mapping[tuple[str, ...], float]
    mode: GaugeMode = "sum"


class Histogram(NamedTuple):
    """A histogram that a scrape makes from plain numbers. For each combination of label values, `values` has the count
    of each of `bounds`, the count beyond all of them, and the sum."""

    name: str
    doc: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...]
    values: Mapping[tuple[str, ...], Sequence[float]]


# A request of a recorded trace: trace id, span id, seconds that it took, and its end in seconds since the epoch.
Exemplar: TypeAlias = tuple[str, str, float, float]


class RouteCells:
    """The histogram cells of one route: by method and status, the count of each bucket, then the sum in seconds."""

    __slots__ = ("_bounds", "by", "exemplars", "route")

    def __init__(self, route: str, bounds: Sequence[float]) -> None:
        self.route = route
        self._bounds = bounds
        self.by: dict[tuple[str, int], list[float]] = {}
        # By method, status and number of the bucket: the newest request of a recorded trace.
        self.exemplars: dict[tuple[str, int, int], Exemplar] = {}

    def observe(self, method: str, status: int, seconds: float) -> int:
        """Count a request. Returns the number of its bucket."""
        cell = self.by.get((method, status))
        if cell is None:
            known = method if method in KNOWN_METHODS else "_OTHER"
            cell = self.by.get((known, status))
            if cell is None:
                cell = self.by[(known, status)] = [0] * (len(self._bounds) + 1) + [0.0]
        bucket = bisect_left(self._bounds, seconds)
        cell[bucket] += 1
        cell[-1] += seconds
        return bucket

    def observe_traced(self, method: str, status: int, exemplar: Exemplar) -> None:
        """Count a request of a recorded trace."""
        bucket = self.observe(method, status, exemplar[2])
        self.exemplars[method if method in KNOWN_METHODS else "_OTHER", status, bucket] = exemplar


class NoCells:
    """Counts nothing, for a host whose metrics are off."""

    route = UNMATCHED

    def observe(self, method: str, status: int, seconds: float) -> int:
        return 0

    def observe_traced(self, method: str, status: int, exemplar: Exemplar) -> None:
        return


class Cells(Protocol):
    """Where the requests of one route are counted."""

    def observe(self, method: str, status: int, seconds: float) -> int:
        """Count a request. Returns the number of its bucket."""

    def observe_traced(self, method: str, status: int, exemplar: Exemplar) -> None:
        """Count a request of a recorded trace."""


class RequestMetrics:
    """The cells of all routes. `bounds` are the upper bounds of the buckets, in seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self._routes: dict[str, RouteCells] = {}

    def cells(self, route: str) -> RouteCells:
        found = self._routes.get(route)
        if found is None:
            found = self._routes[route] = RouteCells(route, self.bounds)
        return found

    def __iter__(self) -> Iterator[RouteCells]:
        return iter(tuple(self._routes.values()))


class NoRequestMetrics:
    """Counts nothing, for a host whose metrics are off."""

    def __init__(self) -> None:
        self._none = NoCells()

    def cells(self, route: str) -> NoCells:
        return self._none
