"""Request metrics: plain cells on the way of a request, made into samples only when somebody scrapes.

Names and labels are those of OpenTelemetry's HTTP semantic conventions in Prometheus form. The route is always a
declared template or `unmatched`, the method a known one or `_OTHER`, so the number of series is bounded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram, Summary

UNMATCHED = "unmatched"
KNOWN_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "WEBSOCKET")
)


class RouteCells:
    """The histogram cells of one route: by method and status, the count of each bucket, then the sum in seconds."""

    __slots__ = ("_bounds", "by", "route")

    def __init__(self, route: str, bounds: Sequence[float]) -> None:
        self.route = route
        self._bounds = bounds
        self.by: dict[tuple[str, int], list[float]] = {}

    def observe(self, method: str, status: int, seconds: float) -> None:
        cell = self.by.get((method, status))
        if cell is None:
            known = method if method in KNOWN_METHODS else "_OTHER"
            cell = self.by.get((known, status))
            if cell is None:
                cell = self.by[(known, status)] = [0] * (len(self._bounds) + 1) + [0.0]
        cell[bisect_left(self._bounds, seconds)] += 1
        cell[-1] += seconds


class NoCells:
    """Metrics switched off."""

    route = UNMATCHED

    def observe(self, method: str, status: int, seconds: float) -> None:
        return


class Cells(Protocol):
    def observe(self, method: str, status: int, seconds: float) -> None: ...


class RequestMetrics:
    """Hands out the cells of each route and walks them for a scrape."""

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
    """Metrics switched off."""

    def __init__(self) -> None:
        self._none = NoCells()

    def cells(self, route: str) -> NoCells:
        return self._none


class Metrics:
    """`app_state.metrics`: the application's own metrics, get-or-create by name, safe from any thread.

    prometheus-client is loaded with the first metric or the first scrape. Asking for a name again gives the same
    metric; asking for it as another type or with other labels raises ValueError.
    """

    def __init__(self, register_stock: Callable[[Any], None] | None = None) -> None:
        self._register_stock = register_stock
        self._loaded: Any = None

    @property
    def registry(self) -> Any:
        """The host's own `exposition.Registry`; never the global one of prometheus-client."""
        if self._loaded is None:
            self._loaded = import_module("pywatt_host.http.exposition").Registry()
            if self._register_stock is not None:
                self._register_stock(self._loaded)
        return self._loaded

    def counter(self, name: str, doc: str = "", labels: Sequence[str] = ()) -> Counter:
        """A value that only grows (`_total` is added to the name on the wire where it is missing)."""
        return self.registry.metric("Counter", name, doc, labels)  # type: ignore[no-any-return]

    def gauge(self, name: str, doc: str = "", labels: Sequence[str] = ()) -> Gauge:
        """A value that goes up and down."""
        return self.registry.metric("Gauge", name, doc, labels)  # type: ignore[no-any-return]

    def histogram(
        self, name: str, doc: str = "", labels: Sequence[str] = (), buckets: Sequence[float] | None = None
    ) -> Histogram:
        """Observations counted in buckets; `buckets` are upper bounds in the metric's own unit."""
        return self.registry.metric("Histogram", name, doc, labels, buckets)  # type: ignore[no-any-return]

    def summary(self, name: str, doc: str = "", labels: Sequence[str] = ()) -> Summary:
        """Observations as their count and their sum."""
        return self.registry.metric("Summary", name, doc, labels)  # type: ignore[no-any-return]
