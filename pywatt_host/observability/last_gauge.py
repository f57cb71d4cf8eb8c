"""A gauge that knows when it was set, so that a host can show the value that any of its workers has set last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from prometheus_client import Gauge


class LastGauge(Gauge):
    """A gauge of mode `last`. Setting it also notes the time, on the monotonic clock, which all processes of a machine
    share. The exposition does not contain that time."""

    def __init__(self, name: str, documentation: str, labelnames: Iterable[str] = (), **options: Any) -> None:
        self.changed = 0.0  # never set
        self.names = tuple(labelnames)
        # Weak, so that a series that the application removes goes away here as well.
        self._children: WeakValueDictionary[frozenset[tuple[str, str]], LastGauge] = WeakValueDictionary()
        super().__init__(name, documentation, self.names, **options)

    def labels(self, *labelvalues: object, **labelkwargs: object) -> LastGauge:
        child = super().labels(*labelvalues, **labelkwargs)
        pairs = labelkwargs.items() if labelkwargs else zip(self.names, labelvalues, strict=True)
        self._children[frozenset((name, str(value)) for name, value in pairs)] = child
        return child

    def changed_at(self, labels: Mapping[str, str]) -> float:
        """When the series with these labels was last set; 0 where it never was."""
        child = self._children.get(frozenset(labels.items())) if labels else self
        return child.changed if child is not None else 0.0

    def set(self, value: float) -> None:
        super().set(value)
        self.changed = time.monotonic()

    def inc(self, amount: float = 1) -> None:
        super().inc(amount)
        self.changed = time.monotonic()

    def dec(self, amount: float = 1) -> None:
        super().dec(amount)
        self.changed = time.monotonic()

    def set_function(self, f: Callable[[], float]) -> None:
        super().set_function(f)
        self.changed = time.monotonic()
