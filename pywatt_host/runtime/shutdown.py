"""How a host stops: what asks for it, how long it may take, and what the exit code says afterwards."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pywatt_host.exceptions import OrchestratorLostError
from pywatt_host.http.server.server import Drain
from pywatt_host.manifest.model import Timeouts
from pywatt_host.runtime.signals import ShutdownWatch

logger = logging.getLogger("pywatt.host")

_EXIT_GRACE = 0.4  # seconds after the shutdown limit at which the process ends, whatever still hangs
_FAILED_START_GRACE = 5.0  # seconds after a failed start at which the process ends, whatever still hangs


class Shutdown:
    """The stop of one host. It is made before the host, so that channels can be given its methods.

    `drain` has the deadline, which all servers share. `failed` is set where something did not stop in order.
    """

    def __init__(self, timeouts: Timeouts, before_exit: Callable[[], None] = lambda: None) -> None:
        """`before_exit` is called where the process is ended at once, from a signal handler or another thread."""
        self.drain = Drain()
        self.failed = False
        self.requested = asyncio.Event()
        self._timeouts = timeouts
        self._before_exit = before_exit
        self._watch = ShutdownWatch(
            lambda: self._end_process("did not stop within server.timeouts.shutdown: ended at once")
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting: asyncio.Task[Any] | None = None  # until everything has started
        self._ends_process = False
        self._orchestrator_lost = False

    @property
    def exit_code(self) -> int:
        """0 where all work was done, 1 where some of it was cut or a service failed to stop, 5 where the orchestrator
        was lost."""
        if self._orchestrator_lost:
            return OrchestratorLostError.exit_code
        return 1 if self.drain.cut or self.failed else 0

    # Who asks for it ------------------------------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Begin to drain. A second call ends the process at once, where the process belongs to the host. Safe from any
        thread and from signal handlers."""
        if self.drain.deadline is not None:
            self._end_process("forced to stop")
            return
        limit = self._timeouts.drain_delay + self._timeouts.shutdown
        self.drain.deadline = time.monotonic() + limit
        self._watch.begin(limit + _EXIT_GRACE)
        if self._loop is not None:
            # A signal may arrive while a request runs: the log fields of the request do not belong to the stop.
            self._loop.call_soon_threadsafe(self._begin, why, context=contextvars.Context())

    def request(self, why: str) -> None:
        """Stop because the control socket or the orchestrator asks for it. A second request changes nothing."""
        if self.drain.deadline is None:
            self.stop(why)

    def orchestrator_lost(self, why: str) -> None:
        """Stop because the orchestrator has gone without a shutdown; the exit code is 5."""
        if self.drain.deadline is None:
            self._orchestrator_lost = True
            logger.error("the orchestrator is lost: %s", why)
            self.stop("the orchestrator is lost")

    def _begin(self, why: str) -> None:
        logger.info("stopping: %s", why)
        self.requested.set()
        if self._starting is not None:
            self._starting.cancel()

    def use(self, timeouts: Timeouts) -> None:
        """Stop within these times from now on."""
        self._timeouts = timeouts

    # How it goes on -------------------------------------------------------------------------------------------------

    def time_left(self) -> float:
        """Seconds left for stopping. The time begins with the first call where nothing has asked for a stop."""
        if self.drain.deadline is None:
            self.drain.deadline = time.monotonic() + self._timeouts.shutdown
        return self.drain.left()

    def count_cut(self, number: int) -> None:
        """Count work that was not done in time, which makes the exit code 1."""
        self.drain.cut += number

    def fail(self) -> None:
        """Something did not stop in order, which makes the exit code 1."""
        self.failed = True

    def watch(self, *, ends_process: bool) -> None:
        """Take requests to stop from now on, on the running event loop. With `ends_process` the process ends where
        stopping takes too long."""
        self._ends_process = ends_process
        self._loop = asyncio.get_running_loop()
        self._watch.start()

    @contextmanager
    def cancels_start(self) -> Iterator[None]:
        """A request to stop cancels the current task, so that a start is unwound and not waited for. Holds until
        `started` is called."""
        self._starting = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if self._starting is None or self.drain.deadline is None:
                raise
            self._starting.uncancel()
        finally:
            self._starting = None

    def started(self) -> None:
        """Everything has started: a request to stop drains from now on."""
        self._starting = None

    def start_failed(self) -> None:
        """End the process soon: a task that ignores its cancellation keeps the event loop from closing."""
        self._watch.begin(_FAILED_START_GRACE)

    def release(self) -> None:
        """Nothing ends the process any more."""
        self._watch.release()

    def _end_process(self, why: str) -> None:
        """End the process at once, where it belongs to the host, without waiting for threads or the event loop."""
        if not self._ends_process:
            return
        with suppress(Exception):  # named boundary: what ends with the process, and the last log line
            self._before_exit()
            logger.error("%s", why)
            for handler in logging.getLogger().handlers:
                handler.flush()  # what standard error did not take before; ours do not wait for its reader
        os._exit(1)
