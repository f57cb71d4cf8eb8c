"""Background tasks of the application. A crash is logged and counted, and handled as `on_failure` says."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal, TypeAlias, get_args

from pywatt_host.observability.context import TraceContext, active_trace
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.observability.spans import NO_TRACER, AnySpan, AnyTracer

logger = logging.getLogger("pywatt.tasks")

Work: TypeAlias = Coroutine[Any, Any, Any] | Callable[[], Awaitable[Any]]
OnFailure: TypeAlias = Literal["log", "restart", "unready"]

_FIRST_RESTART_DELAY = 1.0  # seconds before the first restart; each further restart waits twice as long
_LONGEST_RESTART_DELAY = 60.0  # seconds
_STABLE_AFTER = 60.0  # seconds that a task has run after which the delay starts at the first one again
_UNWIND_TIMEOUT = 5.0  # seconds in which tasks end where the application that spawned them has failed to start


class Tasks:
    """The background tasks, as a service. Each runs until it is done or the host has drained."""

    name = "tasks"

    def __init__(self, checks: Checks, tracer: AnyTracer = NO_TRACER) -> None:
        self._checks = checks
        self._tracer = tracer
        self._loop: asyncio.AbstractEventLoop | None = None  # once the application has started
        self._running: set[asyncio.Task[None]] = set()
        self._failing: dict[str, str] = {}
        self._crashes: Counter[str] = Counter()
        self._spawned = False
        self._stopped = False

    def spawn(self, work: Work, name: str | None, on_failure: OnFailure) -> asyncio.Task[None]:
        """See AppState.spawn."""
        try:
            loop = self._loop_for(work, on_failure)
        except (TypeError, ValueError, RuntimeError):
            close(work)
            raise
        label = name or _name_of(work)
        # A task outlives the request that may have spawned it, so its log lines do not carry the fields of the request.
        # It has a trace of its own, with a link to where it was spawned.
        spawned_in = active_trace() if self._tracer.enabled else None
        task = loop.create_task(
            self._supervise(work, label, on_failure, spawned_in), name=label, context=contextvars.Context()
        )
        self._spawned = True
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        task.add_done_callback(lambda _: close(work))  # cancelled before it began, it would never be awaited
        return task

    def _loop_for(self, work: Work, on_failure: OnFailure) -> asyncio.AbstractEventLoop:
        if on_failure not in get_args(OnFailure):
            raise ValueError(f"on_failure must be log, restart or unready, not {on_failure!r}")
        if inspect.iscoroutine(work):
            if on_failure == "restart":
                raise TypeError("a coroutine object cannot be restarted: give spawn the coroutine function")
        elif not callable(work):
            raise TypeError(f"spawn takes a coroutine or a coroutine function, not {type(work).__name__}")
        if self._stopped:
            raise RuntimeError("the host is stopping: no new task can start")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if loop is None or self._loop not in (None, loop):
            raise RuntimeError("spawn must be called on the host's event loop: use app_state.sync.spawn in threads")
        return loop

    async def _supervise(self, work: Work, label: str, on_failure: OnFailure, spawned_in: TraceContext | None) -> None:
        pause = _FIRST_RESTART_DELAY
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        while True:
            began, span = loop.time(), self._span(label, spawned_in)
            if spawned_in is not None:
                span.begin()
            try:
                await _begun(work)
                return
            except asyncio.CancelledError as error:
                if task.cancelling():
                    raise
                span.fail(type(error).__qualname__)
                self._crashed(label, error, on_failure)  # the task waited for something that was cancelled
            except (Exception, SystemExit) as error:  # named boundary: a task is the user's code
                span.fail(type(error).__qualname__)
                self._crashed(label, error, on_failure)
            finally:
                span.end()
            if on_failure != "restart" or task.cancelling():
                return
            if loop.time() - began >= _STABLE_AFTER:
                pause = _FIRST_RESTART_DELAY
            logger.info("the task %s restarts in %g s", label, pause, extra={"task": label})
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_RESTART_DELAY)

    def _span(self, label: str, spawned_in: TraceContext | None) -> AnySpan:
        """The span of one run. What a task does hangs below it if the task was spawned in the course of something: that
        is work with an end. A task that the start of the application spawns often runs until the host stops, so that
        each thing that it does begins a trace of its own."""
        links = (spawned_in,) if spawned_in is not None and spawned_in.parent_id else ()
        return self._tracer.span(f"task {label}", attributes={"pywatt.task": label}, root=True, links=links)

    def _crashed(self, label: str, error: BaseException, on_failure: OnFailure) -> None:
        self._crashes[label] += 1
        trace = error.__traceback__.tb_next if error.__traceback__ is not None else None  # without our own frame
        logger.error("the task %s crashed", label, exc_info=error.with_traceback(trace), extra={"task": label})
        if on_failure != "unready":
            return
        # Only from the first crash on: a check cannot be removed, and most tasks never crash.
        known = label in self._failing
        self._failing[label] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

        async def check() -> None:
            raise RuntimeError(f"crashed with {self._failing[label]}")

        if not known:
            self._checks.add(f"task {label}", check)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            await self._end(None)

    async def stop(self) -> None:
        """Cancel all tasks and wait up to 5 s for them; new tasks are refused from now on."""
        await self._end(_UNWIND_TIMEOUT)

    async def _end(self, within: float | None) -> None:
        """Cancel all tasks and wait `within` seconds, or (None) as long as the caller does. Tasks that do not end are
        logged."""
        self._stopped = True
        for task in self._running:
            task.cancel()
        try:
            if self._running:
                await asyncio.wait(self._running, timeout=within)
        finally:
            for task in [task for task in self._running if not task.done()]:
                label = task.get_name()
                logger.error("the task %s was cancelled, but does not end", label, extra={"task": label})
            self._running.clear()

    def families(self) -> Iterator[Family]:
        """The metrics, once a task has been spawned. Safe from any thread."""
        if self._spawned:
            yield Family("gauge", "pywatt_tasks_running", "Background tasks.", (), {(): float(len(self._running))})
        crashes = dict(self._crashes)
        if crashes:
            values: dict[tuple[str, ...], float] = {(label,): float(count) for label, count in crashes.items()}
            yield Family("counter", "pywatt_task_crashes", "Crashes of background tasks.", ("task",), values)


def close(work: Work) -> None:
    """Close a coroutine that has not begun and never will."""
    if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
        work.close()


def _begun(work: Work) -> Awaitable[Any]:
    if inspect.iscoroutine(work):
        return work
    made = work()  # type: ignore[operator]
    if not inspect.isawaitable(made):
        raise TypeError(f"{_name_of(work)} is not a coroutine function: it returned {type(made).__name__}")
    return made


def _name_of(work: Any) -> str:
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__name__", None) or type(work).__name__
