"""Services started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.runtime.phases import PhasedService
from pywatt_host.runtime.shutdown import Shutdown
from pywatt_host.service import Service, first_cause

logger = logging.getLogger("pywatt.host")

_STOP_GRACE = 0.3  # seconds that each service gets to stop, even when the shutdown limit is used up


class Lifecycle:
    """The services that have started."""

    def __init__(self, tasks: TaskGroup, stack: AsyncExitStack, shutdown: Shutdown, spans: StartSpans) -> None:
        self._tasks = tasks
        self._stack = stack
        self._shutdown = shutdown
        self._spans = spans

    async def start(self, services: Iterable[PhasedService]) -> None:
        """Start these, by phase. What a service raises stops those that have started."""
        for _, service in sorted(services, key=lambda each: each.phase):
            await self._start(service)

    async def _start(self, service: Service) -> None:
        """Its stop is bounded, and a failure is logged: one service that fails keeps no other from stopping."""
        context = service.running(self._tasks)
        with self._spans.part(f"start {service.name}"):
            await context.__aenter__()

        async def stop() -> None:
            try:
                async with asyncio.timeout(self._shutdown.time_left() + _STOP_GRACE):
                    await context.__aexit__(None, None, None)
            except TimeoutError:
                self._shutdown.fail()
                logger.error("%s did not stop in time", service.name)
            except Exception:  # named boundary: the stop path
                self._shutdown.fail()
                logger.exception("%s failed to stop", service.name)

        self._stack.push_async_callback(stop)


@asynccontextmanager
async def lifecycle(shutdown: Shutdown, spans: StartSpans) -> AsyncIterator[Lifecycle]:
    """Stop in reverse what was started within the block. `spans` has a span for each service that starts slowly.

    The task group is outermost: an unexpected fault in a task of a service stops the host, and is the error raised.
    """
    try:
        async with TaskGroup() as tasks, AsyncExitStack() as stack:
            yield Lifecycle(tasks, stack, shutdown, spans)
    except BaseExceptionGroup as group:
        first = first_cause(group)
        raise first from first.__cause__  # its own cause: that of an AppLoadError is the user's exception
