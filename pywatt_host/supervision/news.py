"""Waiting for something to become true in one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Whoever changes something tells; whoever waits looks again."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def tell(self) -> None:
        told, self._next = self._next, asyncio.Event()
        told.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns as soon as it is so, at once if it is already."""
        while not true():
            await self._next.wait()
