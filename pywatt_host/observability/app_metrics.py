"""The metrics of the application, in the registry of the host. The first metric imports prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.observability.metrics import GaugeMode

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram, Summary


class AppMetrics:
    """`app_state.metrics`: the application's own metrics, which `/metrics` shows beside those of the host.

    Each method returns the metric of that name, and creates it with the first call. Labels are names; their values are
    given with `.labels(...)`, as in prometheus-client. All methods can be called from any thread. They raise ValueError
    where the name is not valid, and where it is registered with another type, mode, other labels or other buckets.
    prometheus-client is imported with the first metric or the first scrape. The metrics live as long as the host.

    >>> metrics = AppMetrics()
    >>> orders = metrics.counter("orders", "Orders that were accepted.", labels=["country"])
    >>> orders.labels(country="ch").inc()
    >>> metrics.counter("orders", "Orders that were accepted.", labels=["country"]) is orders
    True
    """

    def __init__(self, register_stock: Callable[[Any], None] | None = None) -> None:
        """`register_stock` adds the host's own collectors to the new registry."""
        self._register_stock = register_stock
        self._loaded: Any = None

    @property
    def registry(self) -> Any:
        """The `exposition.MetricsRegistry` of this host. It is never the global registry of prometheus-client."""
        if self._loaded is None:
            self._loaded = import_module("pywatt_host.observability.exposition").MetricsRegistry()
            if self._register_stock is not None:
                self._register_stock(self._loaded)
        return self._loaded

    def counter(self, name: str, doc: str = "", labels: Sequence[str] = ()) -> Counter:
        """A value that only grows, such as the number of orders.

        The exposition adds `_total` to a name without it. `doc` is the help text; without it, that is the name.

        >>> mails = AppMetrics().counter("mails_sent", "Mails that were sent.")
        >>> mails.inc(2)
        """
        return self.registry.metric("Counter", name, doc, labels)  # type: ignore[no-any-return]

    def gauge(self, name: str, doc: str = "", labels: Sequence[str] = (), mode: GaugeMode = "sum") -> Gauge:
        """A value that goes up and down, such as the length of a queue.

        `mode` says what a host with several workers shows: the `sum` of their values, the highest one (`max`), or the
        one that a worker has set most recently (`last`). With one worker it makes no difference. Any other mode is a
        ValueError.

        >>> waiting = AppMetrics().gauge("jobs_waiting", "Jobs that wait for a worker.")
        >>> waiting.set(7)
        >>> oldest = AppMetrics().gauge("oldest_job_seconds", "Age of the oldest job.", mode="max")
        >>> imported = AppMetrics().gauge("last_import_timestamp_seconds", "Time of the last import.", mode="last")
        """
        return self.registry.metric("Gauge", name, doc, labels, mode=mode)  # type: ignore[no-any-return]

    def histogram(
        self, name: str, doc: str = "", labels: Sequence[str] = (), buckets: Sequence[float] | None = None
    ) -> Histogram:
        """Observations that are counted in buckets, such as durations.

        `buckets` are the upper bounds, in the unit of the metric (seconds for durations); without them, those of
        prometheus-client.

        >>> durations = AppMetrics().histogram("render_seconds", "Time to render a page.", buckets=[0.01, 0.1, 1])
        >>> durations.observe(0.05)
        """
        return self.registry.metric("Histogram", name, doc, labels, buckets)  # type: ignore[no-any-return]

    def summary(self, name: str, doc: str = "", labels: Sequence[str] = ()) -> Summary:
        """Observations as their count and their sum, such as the sizes of uploads.

        >>> sizes = AppMetrics().summary("upload_bytes", "Size of uploads in bytes.")
        >>> sizes.observe(2048)
        """
        return self.registry.metric("Summary", name, doc, labels)  # type: ignore[no-any-return]
