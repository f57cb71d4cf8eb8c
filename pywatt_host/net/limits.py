"""Limits on concurrent requests and on the rate of requests."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pywatt_host.manifest.values import Rate

_MAX_SUBJECTS = 10_000  # with a token bucket


@dataclass(slots=True)
class Gate:
    """Allows at most `limit` requests at once. The caller increments `running` before a request, and decrements it
    after."""

    limit: int
    running: int = 0

    def full(self) -> bool:
        return self.running >= self.limit


class RateLimiter:
    """A token bucket for each subject, such as a client address.

    At most 10,000 subjects are remembered. The one not seen for longest is forgotten first; it starts again with a full
    bucket. `clock` returns seconds.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._capacity = float(rate.count)
        self._per_second = rate.count / rate.seconds
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_for(self, subject: str) -> float:
        """Take a token and return 0.0 if the request is allowed; otherwise return the seconds until the next one is."""
        now = self._clock()
        tokens, since = self._buckets.pop(subject, (self._capacity, now))
        tokens = min(self._capacity, tokens + (now - since) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[subject] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > _MAX_SUBJECTS:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._per_second
