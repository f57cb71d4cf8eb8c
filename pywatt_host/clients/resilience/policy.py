"""The policies of one target, and one call under them. No I/O except waiting."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pywatt_host.clients.resilience.breaker import Breaker, Permit
from pywatt_host.clients.resilience.retry import MAX_WAIT, RetrySchedule
from pywatt_host.exceptions import MessagingError

T = TypeVar("T")


class NoPermit:
    """The permit for a target without a circuit breaker."""

    def succeeded(self) -> None:
        return

    def failed(self) -> None:
        return

    def dropped(self) -> None:
        return


class TargetPolicy:
    """Timeout, retries and circuit breaker of one target; each of them may be absent."""

    def __init__(
        self,
        target: str,
        key: str,
        timeout: float | None = None,
        schedule: RetrySchedule | None = None,
        breaker: Breaker | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`key` is the manifest key, such as `resiliency.targets.modules.billing`. `timeout` is in seconds; `clock`
        gives seconds."""
        self.target = target
        self.key = key
        self.timeout = timeout
        self.schedule = schedule
        self.breaker = breaker
        self.clock = clock
        self.retries = 0
        self._lock = threading.Lock()

    def call(self, timeout: float | None = None) -> PolicyCall:
        """Begin a call. `timeout` is that of the caller, in seconds; the shorter one counts."""
        limits = [each for each in (self.timeout, timeout) if each is not None]
        return PolicyCall(self, min(limits) if limits else None)

    def refusal(self) -> str:
        """Why the circuit breaker allows no attempt."""
        seconds = self.breaker.open_for() if self.breaker is not None else 0.0
        if seconds > 0:
            return f"the circuit breaker of {self.target} is open for another {math.ceil(seconds)}s"
        return f"the circuit breaker of {self.target} is half-open: other calls are testing whether it answers again"

    async def check(self) -> None:
        """Raises ConnectionError while the circuit breaker is open."""
        if self.breaker is not None and self.breaker.open_for() > 0:
            raise ConnectionError(self.refusal())

    def count_retry(self) -> None:
        with self._lock:
            self.retries += 1

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> T:
        """Make a call: return what `attempt` returns, or raise what the last attempt raises.

        `attempt` gets the seconds that are left; None where there is no limit. `retryable` tells whether the call may
        be made again after an error. `failure` tells whether an error is a failure of the target for the circuit
        breaker; any other error counts as a success. `timeout` is for all attempts and waits together, in seconds.

        Raises MessagingError: `unavailable` while the circuit breaker is open, `timeout` once the time is over.
        """
        call = self.call(timeout)
        while True:
            permit = call.begin()
            if permit is None:
                raise MessagingError("unavailable", self.refusal(), self.target)
            try:
                result = await self._bounded(call, attempt)
            except Exception as error:
                if failure(error):
                    permit.failed()
                else:
                    permit.succeeded()
                wait = call.wait() if retryable(error) else None
                if wait is not None:
                    await asyncio.sleep(wait)
                    continue
                raise
            else:
                permit.succeeded()
                return result
            finally:
                permit.dropped()  # counts only where the attempt was cancelled and has no result yet

    async def _bounded(self, call: PolicyCall, attempt: Callable[[float | None], Awaitable[T]]) -> T:
        left = call.left()
        try:
            async with asyncio.timeout(left) as limit:
                return await attempt(left)
        except TimeoutError:
            if not limit.expired():
                raise
            raise MessagingError("timeout", f"no answer within {call.timeout:g}s", self.target) from None


class PolicyCall:
    """One call under a policy: its attempts, one after the other."""

    def __init__(self, policy: TargetPolicy, timeout: float | None) -> None:
        self.timeout = timeout
        self._policy = policy
        self._deadline = None if timeout is None else policy.clock() + timeout
        self._retries = 0

    def begin(self) -> Permit | NoPermit | None:
        """The permit for an attempt; None where the circuit breaker allows none."""
        breaker = self._policy.breaker
        return NoPermit() if breaker is None else breaker.admit()

    def left(self) -> float | None:
        """Seconds that are left for all attempts; None without a limit."""
        return None if self._deadline is None else max(0.0, self._deadline - self._policy.clock())

    def wait(self, asked: float | None = None) -> float | None:
        """Seconds to wait before the next attempt, which is counted as a retry; None where there is no next attempt: no
        retries are left, the time would be over, or the circuit breaker will be open. `asked` is the shortest wait that
        the other side asks for, in seconds."""
        policy, schedule = self._policy, self._policy.schedule
        if schedule is None or self._retries >= schedule.max_retries or (asked or 0.0) > MAX_WAIT:
            return None
        wait = max(schedule.wait(self._retries), asked or 0.0)
        left = self.left()
        if left is not None and wait >= left:
            return None
        if policy.breaker is not None and policy.breaker.open_for() > wait:
            return None
        self._retries += 1
        policy.count_retry()
        return wait
