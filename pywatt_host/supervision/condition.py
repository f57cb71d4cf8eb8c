"""Waiting on one event loop until something becomes true."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class LoopCondition:
    """An `asyncio.Condition` without a lock, so that callbacks can notify as well as coroutines."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify_all(self) -> None:
        """Make every waiter look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Return as soon as `predicate` is true, at once if it is true already."""
        while not predicate():
            await self._changed.wait()
