"""The circuit breaker: a target that fails repeatedly gets no requests for a while, then a few to try it. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum

from pywatt_host.manifest.model import CircuitBreaker


class BreakerState(IntEnum):
    """The states of a circuit breaker, with the numbers of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Permit:
    """The permission for one attempt. It takes one result: later results do not count, nor does the result of an
    attempt that began before the breaker last changed its state."""

    __slots__ = ("_breaker", "_done", "_era")

    def __init__(self, breaker: Breaker, era: int) -> None:
        self._breaker = breaker
        self._era = era
        self._done = False

    def succeeded(self) -> None:
        self._end(self._breaker._succeeded)

    def failed(self) -> None:
        self._end(self._breaker._failed)

    def dropped(self) -> None:
        """The attempt says nothing about the target: it was cancelled, or something else failed."""
        self._end(self._breaker._dropped)

    def _end(self, count: Callable[[], None]) -> None:
        with self._breaker._lock:
            if not self._done and self._era == self._breaker._era:
                count()
            self._done = True


class Breaker:
    """Closed until there are `consecutive_failures` in a row within `interval`; then open for `timeout`; then half-open
    until `max_requests` attempts have succeeded, which closes it, or one has failed, which opens it again.

    Safe from any thread.
    """

    def __init__(self, options: CircuitBreaker, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._era = 0  # the number of changes of the state
        self._failures = 0
        self._first_failure = 0.0
        self._opened = 0.0
        self._probes = 0  # attempts of the half-open state that run or have succeeded
        self._successes = 0
        self.rejected = 0

    def state(self) -> BreakerState:
        with self._lock:
            return self._now()

    def admit(self) -> Permit | None:
        """The permit for an attempt. None, which is counted as rejected, where the breaker allows none."""
        with self._lock:
            state = self._now()
            if state is BreakerState.OPEN or (
                state is BreakerState.HALF_OPEN and self._probes >= self._options.max_requests
            ):
                self.rejected += 1
                return None
            if state is BreakerState.HALF_OPEN:
                self._probes += 1
            return Permit(self, self._era)

    def open_for(self) -> float:
        """Seconds until an attempt is allowed; 0 where one is allowed now."""
        with self._lock:
            return self._left() if self._now() is BreakerState.OPEN else 0.0

    def _left(self) -> float:
        return self._opened + self._options.timeout - self._clock()

    def _now(self) -> BreakerState:
        """The present state. An open breaker becomes half-open as time passes."""
        if self._state is BreakerState.OPEN and self._left() <= 0:
            self._become(BreakerState.HALF_OPEN)
        return self._state

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._failures = self._probes = self._successes = 0
        if state is BreakerState.OPEN:
            self._opened = self._clock()

    # Results of permits, called under the lock ----------------------------------------------------------------------

    def _succeeded(self) -> None:
        self._failures = 0
        if self._state is BreakerState.HALF_OPEN:
            self._successes += 1
            if self._successes >= self._options.max_requests:
                self._become(BreakerState.CLOSED)

    def _failed(self) -> None:
        if self._state is BreakerState.HALF_OPEN:
            self._become(BreakerState.OPEN)
            return
        now, interval = self._clock(), self._options.interval
        if self._failures == 0 or (interval is not None and now - self._first_failure > interval):
            self._failures, self._first_failure = 0, now
        self._failures += 1
        if self._failures >= self._options.consecutive_failures:
            self._become(BreakerState.OPEN)

    def _dropped(self) -> None:
        if self._state is BreakerState.HALF_OPEN:
            self._probes -= 1
