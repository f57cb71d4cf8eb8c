"""An event that costs nothing until a task waits for it."""

from __future__ import annotations

import asyncio


class Wakeup:
    """Wakes all tasks that wait for it. Unlike asyncio.Event it is not set afterwards: who waits looks again at what it
    waits for."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Wake the tasks that wait."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self) -> None:
        """Wait until the next `fire`."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter in self._waiters:  # an application that polls for a disconnect cancels many times
                self._waiters.remove(waiter)
            raise
