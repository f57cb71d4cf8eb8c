"""The application's own metrics, in the host's own registry. The first one asked for loads prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram, Summary


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
            self._loaded = import_module("pywatt_host.observability.exposition").MetricsRegistry()
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
