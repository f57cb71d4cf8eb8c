"""The circuit breaker: a target that fails again and again is left alone for a while, then tried. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum

from pywatt_host.manifest.model import CircuitBreaker


class BreakerState(IntEnum):
    """The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Permit:
    """Leave for one attempt. It has one result; those after it do not count, nor does one of an attempt that began
    before the breaker last changed its state."""

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
        """Nothing was learned: the attempt was cancelled, or it was not the target that failed."""
        self._end(self._breaker._dropped)

    def _end(self, count: Callable[[], None]) -> None:
        with self._breaker._lock:
            if not self._done and self._era == self._breaker._era:
                count()
            self._done = True


class Breaker:
    """Closed until `consecutive_failures` in a row within `interval`; open for `timeout`; half-open until
    `max_requests` attempts have succeeded, which closes it, or one has failed, which opens it again.

    Safe from any thread.
    """

    def __init__(self, options: CircuitBreaker, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._options = options
        self._clock = clock
        self._lock = threading.Lock()
        self._state = BreakerState.CLOSED
        self._era = 0  # counts changes of the state
        self._failures = 0
        self._first_failure = 0.0
        self._opened = 0.0
        self._probes = 0  # of the half-open state: under way, or succeeded
        self._successes = 0
        self.rejected = 0

    def state(self) -> BreakerState:
        with self._lock:
            return self._now()

    def admit(self) -> Permit | None:
        """Leave for an attempt; None, counted as rejected, where there is none."""
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
        """Seconds until it lets somebody try the target; 0 where it does."""
        with self._lock:
            return self._left() if self._now() is BreakerState.OPEN else 0.0

    def _left(self) -> float:
        return self._opened + self._options.timeout - self._clock()

    def _now(self) -> BreakerState:
        """The state, which time may have changed."""
        if self._state is BreakerState.OPEN and self._left() <= 0:
            self._become(BreakerState.HALF_OPEN)
        return self._state

    def _become(self, state: BreakerState) -> None:
        self._state = state
        self._era += 1
        self._failures = self._probes = self._successes = 0
        if state is BreakerState.OPEN:
            self._opened = self._clock()

    # What a Permit tells, under the lock ------------------------------------------------------------------------------

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
