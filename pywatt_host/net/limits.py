"""Bounds on how much runs at once and how often."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pywatt_host.manifest.values import Rate

_REMEMBERED_SUBJECTS = 10_000


@dataclass(slots=True)
class Gate:
    """At most `limit` at once; whoever enters counts `running` up, and down again."""

    limit: int
    running: int = 0

    def full(self) -> bool:
        return self.running >= self.limit


class RateLimiter:
    """A token bucket per subject. Bounded: the subject not seen for longest is forgotten first, with a full bucket."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._capacity = float(rate.count)
        self._per_second = rate.count / rate.seconds
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, subject: str) -> float:
        """0.0 when a request may go on (and takes its token); else the seconds until the next one may."""
        now = self._clock()
        tokens, since = self._buckets.pop(subject, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[subject] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > _REMEMBERED_SUBJECTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._per_second
