"""The counts and durations that a store keeps. They become metric samples only when metrics are scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

# Seconds. A cache answers in microseconds; a report may take a minute.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Stats:
    """Durations by operation, and counts by name.

    Operations are names of our methods, never texts of a user, so that the number of time series is bounded.
    """

    __slots__ = ("counts", "durations")

    def __init__(self) -> None:
        # Operation -> the count of each bucket, the count beyond the last bucket, and the sum in seconds.
        self.durations: dict[str, list[float]] = {}
        self.counts: Counter[str] = Counter()

    def observe(self, operation: str, seconds: float) -> None:
        cell = self.durations.get(operation)
        if cell is None:
            cell = self.durations[operation] = [0.0] * (len(BUCKETS) + 2)
        cell[bisect_left(BUCKETS, seconds)] += 1
        cell[-1] += seconds
