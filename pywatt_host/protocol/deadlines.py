"""Many deadlines for the price of one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from pywatt_host.observability.running_clock import RunningClock

T = TypeVar("T")

_POLL_INTERVAL = 0.05  # seconds


class Deadlines(Generic[T]):
    """Calls `expired` with each item whose time is over, at most 50 ms late. Only time in which this process runs
    counts: after a pause, the answers that have arrived meanwhile are read first.

    One timer of the event loop for each request would cost as much as all other work on the request.
    """

    def __init__(self, expired: Callable[[T], object]) -> None:
        self._expired = expired
        self._ends: dict[T, float] = {}  # on the clock
        self._clock = RunningClock(_POLL_INTERVAL)
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no timer runs, because no item is watched."""
        return self._timer is None

    def add(self, item: T, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Watch an item; its time of so many seconds begins now."""
        if self._timer is None:
            self._clock.restart()
            self._timer = loop.call_later(min(seconds, _POLL_INTERVAL), self._poll, loop)
        elif seconds < _POLL_INTERVAL:
            loop.call_later(seconds, self._expire)
        self._ends[item] = self._clock.time() + seconds

    def remove(self, item: T) -> None:
        """Stop watching an item. Allowed after its time is over, too."""
        self._ends.pop(item, None)

    def _poll(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._clock.tick():
            self._expire()
        self._timer = loop.call_later(_POLL_INTERVAL, self._poll, loop) if self._ends else None

    def _expire(self) -> None:
        now = self._clock.time()
        for item in [item for item, end in self._ends.items() if end <= now]:
            self._ends.pop(item, None)
            self._expired(item)
