"""Liveness, readiness and health: checks run in the background, and requests are answered from their last results."""

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

from pywatt_host.exceptions import HostError
from pywatt_host.manifest.model import Health
from pywatt_host.observability.running_clock import running_timeout

logger = logging.getLogger("pywatt.health")

CheckFunction: TypeAlias = Callable[[], Awaitable[Any] | Any]
CheckState: TypeAlias = Literal["starting", "passing", "failing"]

_MAX_MESSAGE_LENGTH = 300  # characters


@dataclass(slots=True)
class Check:
    """One check and its last result. A check passes where its function returns, and fails where it raises.

    A synchronous function runs in a thread. While it hangs, it is not started a second time.
    """

    name: str
    function: CheckFunction
    state: CheckState = "starting"
    message: str = ""
    failures: int = 0
    hanging: asyncio.Future[Any] | None = None
    optional: bool = False
    known: bool = False

    async def run(self, timeout: float) -> None:
        """Run the check once. Raises what its function raises, and TimeoutError after `timeout` seconds."""
        if inspect.iscoroutinefunction(self.function):
            async with running_timeout(timeout):
                await self.function()
            return
        if self.hanging is None or self.hanging.done():
            # Not a task: the end of the event loop cancels tasks, and the result of the thread would be lost.
            self.hanging = asyncio.get_running_loop().run_in_executor(None, self.function)
            self.hanging.add_done_callback(_retrieve)
        try:
            async with running_timeout(timeout):
                result = await asyncio.shield(self.hanging)
                if inspect.isawaitable(result):
                    await result
        except asyncio.CancelledError:  # the host stops
            self.hanging.add_done_callback(_close)
            raise

    def passed(self) -> None:
        """The check has passed."""
        if self.state == "failing":
            logger.info("check %s passes again", self.name, extra={"check": self.name})
        self.state, self.message, self.failures = "passing", "", 0

    def failed(self, why: str, *, retries: int, in_start_period: bool) -> None:
        """The check has failed. Its state becomes `failing` after so many `retries` in a row."""
        self.failures += 1
        self.message = why[:_MAX_MESSAGE_LENGTH]
        if self.state == "starting" and in_start_period:
            return
        if self.state == "starting" or (self.state == "passing" and self.failures >= retries):
            self.state = "failing"
            logger.warning("check %s fails: %s", self.name, self.message, extra={"check": self.name})


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieve the result of a check that has timed out, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


def _close(future: asyncio.Future[Any]) -> None:
    """Close the coroutine that a check returned after the host has stopped."""
    if not future.cancelled() and future.exception() is None and inspect.iscoroutine(future.result()):
        future.result().close()


class Checks:
    """Runs each check every `interval` seconds, and answers requests from the last results."""

    name = "health"

    def __init__(
        self, settings: Health, identity: dict[str, Any], mask: Callable[[str], str] = lambda text: text
    ) -> None:
        """`mask` masks secrets in the messages of checks."""
        self._settings = settings
        self._identity = identity
        self._checks: dict[str, Check] = {}
        self._mask = mask
        self._tasks: TaskGroup | None = None
        self._repeating: list[asyncio.Task[None]] = []
        self._started = 0.0
        self.draining = False
        self.serving = False

    def use(self, settings: Health, identity: dict[str, Any]) -> None:
        """Run the checks with other settings from now on, and say in reports that the module is another version."""
        self._settings, self._identity = settings, identity

    def add(self, name: str, function: CheckFunction, *, optional: bool = False, known: bool = False) -> None:
        """Add a check. While the host runs, it starts at once. Where an optional check fails, the health is degraded
        and the module stays ready. Raises ValueError where the name is taken.

        `known` is for a check of the host's own whose result is known at any time, such as whether a certificate could
        be renewed: its function only looks at what is known, and is not a coroutine function. Each report calls it, and
        its first failure counts.
        """
        if name in self._checks:
            raise ValueError(f"a health check named {name!r} exists already")
        check = self._checks[name] = Check(name, function, optional=optional, known=known)
        if self._tasks is not None and not known:
            self._begin(check, self._tasks)

    def _begin(self, check: Check, tasks: TaskGroup) -> None:
        # A check outlives the request in whose course it may have been added.
        own = contextvars.Context()
        self._repeating.append(tasks.create_task(self._repeat(check), name=f"health check {check.name}", context=own))

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._tasks, self._started = tasks, time.monotonic()
        for check in self._checks.values():
            if not check.known:
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
        except Exception as error:  # named boundary: a check is the user's code; its failure is its result
            why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            check.failed(self._mask(why), retries=self._settings.retries, in_start_period=early)
        else:
            check.passed()

    def _look(self) -> None:
        """Call the functions of the checks whose results are known."""
        for check in self._checks.values():
            if check.known:
                try:
                    check.function()
                except HostError as error:
                    check.failed(self._mask(f"{type(error).__name__}: {error}"), retries=1, in_start_period=False)
                else:
                    check.passed()

    # Answers --------------------------------------------------------------------------------------------------

    def passing(self, *, but: str = "") -> bool:
        """Whether all checks pass, apart from `but` and from optional ones."""
        self._look()
        return all(
            check.state == "passing" for check in self._checks.values() if check.name != but and not check.optional
        )

    def ready(self) -> bool:
        """Whether the module serves, does not drain, and passes its checks."""
        return self.serving and not self.draining and self.passing()

    def report(self, *, details: bool = True) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of the health report. Without `details` it contains the names and states of the
        checks, but not why they fail: an error may name addresses, users and paths."""
        self._look()
        states = {check.state for check in self._checks.values() if not check.optional}
        status = "unhealthy" if "failing" in states else "starting" if "starting" in states else "healthy"
        if status == "healthy" and any(check.state == "failing" for check in self._checks.values()):
            status = "degraded"
        checks = {
            check.name: {"status": check.state, **({"error": check.message} if details and check.message else {})}
            for check in self._checks.values()
        }
        return 200 if status in ("healthy", "degraded") else 503, {"status": status, **self._identity, "checks": checks}

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """The HTTP status and the body of the readiness probe."""
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
        """The HTTP status and the body of the liveness probe."""
        return 200, {"status": "alive"}
