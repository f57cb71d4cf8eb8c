"""What a store counts of itself: plain cells, made into samples only when somebody scrapes."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

# Seconds. Caches answer in microseconds, reports take a minute.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Stats:
    """Durations by operation, and counts by name. Operations are methods of ours, never texts of a user: the number of
    series is bounded."""

    __slots__ = ("counts", "durations")

    def __init__(self) -> None:
        # Operation -> how often each bucket, then beyond all of them, then the sum in seconds.
        self.durations: dict[str, list[float]] = {}
        self.counts: Counter[str] = Counter()

    def observe(self, operation: str, seconds: float) -> None:
        cell = self.durations.get(operation)
        if cell is None:
            cell = self.durations[operation] = [0.0] * (len(BUCKETS) + 2)
        cell[bisect_left(BUCKETS, seconds)] += 1
        cell[-1] += seconds
