"""Liveness, readiness and health: checks that run in the background, answers that cost nothing."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pywatt_host.manifest.model import Health

logger = logging.getLogger("pywatt.health")

CheckFunction: TypeAlias = Callable[[], Awaitable[Any] | Any]
CheckState: TypeAlias = Literal["starting", "passing", "failing"]

_LONGEST_MESSAGE = 300


@dataclass(slots=True)
class Check:
    """One check and its last result. A check is healthy when it returns; it says why not by raising.

    A sync function runs in a thread; one that hangs is not started a second time before it has come back.
    """

    name: str
    function: CheckFunction
    state: CheckState = "starting"
    message: str = ""
    failures: int = 0
    hanging: asyncio.Future[Any] | None = None
    optional: bool = False

    async def run(self, timeout: float) -> None:
        """Raises what the check raises, TimeoutError after `timeout` seconds."""
        if inspect.iscoroutinefunction(self.function):
            async with asyncio.timeout(timeout):
                await self.function()
            return
        if self.hanging is None or self.hanging.done():
            # No task: the end of the event loop cancels those, and what the thread returns would be lost.
            self.hanging = asyncio.get_running_loop().run_in_executor(None, self.function)
            self.hanging.add_done_callback(_retrieve)
        try:
            async with asyncio.timeout(timeout):
                result = await asyncio.shield(self.hanging)
                if inspect.isawaitable(result):
                    await result
        except asyncio.CancelledError:  # the host stops; nobody asks again
            self.hanging.add_done_callback(_close)
            raise

    def passed(self) -> None:
        if self.state == "failing":
            logger.info("check %s passes again", self.name, extra={"check": self.name})
        self.state, self.message, self.failures = "passing", "", 0

    def failed(self, why: str, *, retries: int, in_start_period: bool) -> None:
        self.failures += 1
        self.message = why[:_LONGEST_MESSAGE]
        if self.state == "starting" and in_start_period:
            return
        if self.state == "starting" or (self.state == "passing" and self.failures >= retries):
            self.state = "failing"
            logger.warning("check %s fails: %s", self.name, self.message, extra={"check": self.name})


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take the result of a check that nobody waited for any more."""
    if not future.cancelled():
        future.exception()


def _close(future: asyncio.Future[Any]) -> None:
    """Close the coroutine that a check returned, which nobody awaits any more."""
    if not future.cancelled() and future.exception() is None and inspect.iscoroutine(future.result()):
        future.result().close()


class Checks:
    """Runs every check each `interval`; what is asked in between is answered from the last result."""

    name = "health"

    def __init__(
        self, settings: Health, identity: dict[str, Any], mask: Callable[[str], str] = lambda text: text
    ) -> None:
        """`mask` takes secrets out of what checks say."""
        self._settings = settings
        self._identity = identity
        self._checks: dict[str, Check] = {}
        self._mask = mask
        self._tasks: TaskGroup | None = None
        self._repeating: list[asyncio.Task[None]] = []
        self._started = 0.0
        self.draining = False
        self.serving = False

    def add(self, name: str, function: CheckFunction, *, optional: bool = False) -> None:
        """Raises ValueError where the name is taken. A check added while running starts at once. One that is optional
        degrades the health where it fails; the module stays ready."""
        if name in self._checks:
            raise ValueError(f"there is a health check named {name!r} already")
        check = self._checks[name] = Check(name, function, optional=optional)
        if self._tasks is not None:
            self._begin(check, self._tasks)

    def _begin(self, check: Check, tasks: TaskGroup) -> None:
        # It outlives the request in whose course it may have been added.
        own = contextvars.Context()
        self._repeating.append(tasks.create_task(self._repeat(check), name=f"health check {check.name}", context=own))

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._tasks, self._started = tasks, time.monotonic()
        for check in self._checks.values():
            self._begin(check, tasks)
        try:
            yield
        finally:
            self._tasks = None
            for task in self._repeating:
                task.cancel()

    async def _repeat(self, check: Check) -> None:
        while self._tasks is not None:
            await self._once(check)
            await asyncio.sleep(self._settings.interval)

    async def _once(self, check: Check) -> None:
        early = time.monotonic() - self._started < self._settings.start_period
        try:
            await check.run(self._settings.timeout)
        except TimeoutError:
            why = f"no answer within {self._settings.timeout:g}s"
            check.failed(why, retries=self._settings.retries, in_start_period=early)
        except Exception as error:  # named boundary: a check is the user's code, and its failure is its result
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            check.failed(self._mask(why), retries=self._settings.retries, in_start_period=early)
        else:
            check.passed()

    # What is asked --------------------------------------------------------------------------------------------------

    def passing(self, *, but: str = "") -> bool:
        """Whether every check (other than `but` and optional ones) passes."""
        return all(
            check.state == "passing" for check in self._checks.values() if check.name != but and not check.optional
        )

    def ready(self) -> bool:
        return self.serving and not self.draining and self.passing()

    def report(self) -> tuple[int, dict[str, Any]]:
        """Status and body of the full report."""
        states = {check.state for check in self._checks.values() if not check.optional}
        status = "unhealthy" if "failing" in states else "starting" if "starting" in states else "healthy"
        if status == "healthy" and any(check.state == "failing" for check in self._checks.values()):
            status = "degraded"
        checks = {
            check.name: {"status": check.state, **({"error": check.message} if check.message else {})}
            for check in self._checks.values()
        }
        return 200 if status in ("healthy", "degraded") else 503, {"status": status, **self._identity, "checks": checks}

    def readiness(self) -> tuple[int, dict[str, Any]]:
        if self.ready():
            return 200, {"status": "ready"}
        if self.draining:
            return 503, {"status": "draining"}
        if not self.serving:
            return 503, {"status": "starting"}
        return 503, {
            "status": "not ready",
            "checks": {
                check.name: check.state
                for check in self._checks.values()
                if check.state != "passing" and not check.optional
            },
        }

    def liveness(self) -> tuple[int, dict[str, Any]]:
        return 200, {"status": "alive"}
