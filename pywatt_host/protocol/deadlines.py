"""Many deadlines for the price of one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK = 0.05  # seconds between two looks


class Deadlines(Generic[T]):
    """Calls `expired` with each thing whose time is over, at most a twentieth of a second late.

    A timer of the loop for each request would cost as much as everything else that is done for it.
    """

    def __init__(self, expired: Callable[[T], object]) -> None:
        self._expired = expired
        self._ends: dict[T, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether no timer runs, since there is nothing to watch."""
        return self._timer is None

    def add(self, thing: T, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """Its time begins now."""
        self._ends[thing] = loop.time() + seconds
        if self._timer is None:
            self._timer = loop.call_later(min(seconds, _LOOK), self._look, loop)
        elif seconds < _LOOK:
            loop.call_later(seconds, self._expire, loop)

    def remove(self, thing: T) -> None:
        """It is done; also where its time was over."""
        self._ends.pop(thing, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._expire(loop)
        self._timer = loop.call_later(_LOOK, self._look, loop) if self._ends else None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for thing in [thing for thing, end in self._ends.items() if end <= now]:
            self._ends.pop(thing, None)
            self._expired(thing)
