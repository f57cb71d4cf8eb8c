"""Notices that an orchestrator is gone, by the heartbeats that it no longer sends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_MIN_INTERVAL = 1.0  # seconds: missed heartbeats are counted in intervals of at least this length


class HeartbeatWatch:
    """Learns the interval from the heartbeats that arrive. Calls `lost` when `max_missed` of them are missing in a row;
    not where none were sent."""

    def __init__(self, max_missed: int, lost: Callable[[str], None]) -> None:
        self._max_missed = max_missed
        self._lost = lost
        self._last = 0.0  # on the clock of time.monotonic
        self._interval = 0.0  # seconds; 0 until there were two heartbeats

    def beat(self) -> None:
        """A heartbeat has arrived."""
        now = time.monotonic()
        if self._last:
            self._interval = max(now - self._last, self._interval * 0.5)
        self._last = now

    async def watch(self) -> None:
        """Watch for as long as this is awaited."""
        while True:
            await asyncio.sleep(_MIN_INTERVAL / 2)
            interval = max(self._interval, _MIN_INTERVAL)
            if self._interval and time.monotonic() - self._last > interval * (self._max_missed + 0.5):
                self._interval = 0.0
                self._lost(f"no heartbeat for {self._max_missed} intervals of {interval:.3g}s")
