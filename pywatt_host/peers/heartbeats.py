"""Notices that an orchestrator is gone, by the heartbeats that it no longer sends."""

from __future__ import annotations

from collections.abc import Callable

from pywatt_host.observability.running_clock import LOOK_INTERVAL, RunningClock

_MIN_INTERVAL = 1.0  # seconds: missed heartbeats are counted in intervals of at least this length
_GRACE = 0.25  # seconds that the last of the missing heartbeats may be late


class HeartbeatWatch:
    """Learns the interval from the heartbeats that arrive. Calls `lost` when `max_missed` of them are missing in a row;
    not where none were sent. The other side is silent only while this process runs: a pause does not count."""

    def __init__(self, max_missed: int, lost: Callable[[str], None], clock: RunningClock | None = None) -> None:
        self._max_missed = max_missed
        self._lost = lost
        self._clock = clock or RunningClock(min(LOOK_INTERVAL, _MIN_INTERVAL))
        self._last: float | None = None  # on the clock
        self._interval: float | None = None  # seconds; None until there were two heartbeats

    def beat(self) -> None:
        """A heartbeat has arrived."""
        now = self._clock.time()
        if self._last is not None:
            gap, before = max(now - self._last, 0.0), self._interval
            # A longer gap counts at once. Shorter ones count by the time that they cover: heartbeats that have piled up
            # during a pause arrive together, and say nothing about the interval.
            self._interval = max(gap, before * 0.5 ** (gap / before)) if before else gap
        self._last = now

    async def watch(self) -> None:
        """Watch for as long as this is awaited."""
        self._clock.restart()
        while True:
            await self._clock.next_look()
            if self._last is None or self._interval is None:
                continue
            interval = max(self._interval, _MIN_INTERVAL)
            if self._clock.time() - self._last > interval * self._max_missed + _GRACE:
                self._interval = None
                self._lost(f"no heartbeat for {self._max_missed} intervals of {interval:.3g}s")
