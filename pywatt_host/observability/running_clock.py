"""Time that passes only while this process runs, to measure the silence of others with.

A process may stand still: SIGSTOP, a debugger, a suspended or frozen machine, an event loop that the application
blocks. When it goes on, everything that others have sent meanwhile waits in its sockets, and every timer is overdue.
Timers that measure silence therefore use this clock: they do not count a pause, and after one they let the event loop
read first what has arrived.

`RunningClock` is for code that has a periodic callback of its own, `RunningTimer` and `running_timeout` are in place of
`loop.call_later` and `asyncio.timeout`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

LOOK_INTERVAL = 0.25  # seconds between two looks at the clock, for limits of whole seconds
_MOST_INTERVALS = 4  # between two looks; what is longer is a pause


class RunningClock:
    """Counts seconds. Its owner calls `tick` about every `interval` seconds, on one event loop. Where four intervals or
    more pass between two calls, that was a pause, which counts as one interval."""

    def __init__(self, interval: float = LOOK_INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self.interval = interval
        self._most = interval * _MOST_INTERVALS
        self._clock = clock
        self._base = 0.0  # what this clock said at the last tick
        self._ticked = clock()
        self._late = False

    def time(self) -> float:
        """Seconds that have passed on this clock since it was made."""
        return self._base + self._counted(self._clock() - self._ticked)

    def tick(self) -> bool:
        """Go on counting. Returns False at the first tick after a pause: what is overdue now may have arrived
        meanwhile, so its owner decides at the next tick. An event loop that is late at every tick is not paused but
        busy: from the second one on, they count, as four intervals each."""
        now = self._clock()
        since = now - self._ticked
        late = since >= self._most
        paused = late and not self._late
        self._base += self._counted(since)
        self._ticked, self._late = now, late
        return not paused

    def _counted(self, since: float) -> float:
        if since < self._most:
            return since
        return self._most if self._late else self.interval

    def restart(self) -> None:
        """Go on counting from now, after a time in which its owner did not call `tick` because nothing was measured."""
        self._ticked, self._late = self._clock(), False

    async def next_look(self) -> None:
        """Return after one interval, or after two where the process has paused: its owner decides then."""
        await asyncio.sleep(self.interval)
        if not self.tick():
            await asyncio.sleep(self.interval)
            self.tick()


class RunningTimer:
    """Calls `call` with `arguments` after so many `seconds` in which this process ran, on the running event loop. It
    is up to a millisecond early or an interval late."""

    def __init__(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = RunningClock()
        self._seconds = seconds
        self._call = call
        self._arguments = arguments
        self._handle = self._loop.call_later(min(seconds, self._clock.interval), self._look)

    def cancel(self) -> None:
        """Do not call. Allowed afterwards, too."""
        self._handle.cancel()

    def _look(self) -> None:
        decided = self._clock.tick()
        left = self._seconds - self._clock.time()
        if decided and left <= _RESOLUTION:
            self._call(*self._arguments)
        else:
            wait = min(max(left, _RESOLUTION), self._clock.interval) if decided else self._clock.interval
            self._handle = self._loop.call_later(wait, self._look)


_RESOLUTION = 0.001  # seconds: uvloop's timers are on a clock of milliseconds


@asynccontextmanager
async def running_timeout(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError where the block takes longer than so many seconds in which this process ran."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        timer = RunningTimer(seconds, lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            timer.cancel()
