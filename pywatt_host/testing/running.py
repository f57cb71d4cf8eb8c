"""An async context manager that runs beside a test, in a thread of its own or on the test's event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class BackgroundContext(Generic[T]):
    """Enters an async context manager in `start` and leaves it in `stop`, both in one task.

    `failure` is the error that ended it before `stop`. `name` names it in errors; `log_tail` returns the text that the
    error of a timeout shows.
    """

    def __init__(self, context: AbstractAsyncContextManager[T], name: str, log_tail: Callable[[], str]) -> None:
        self.failure: BaseException | None = None
        self.name = name
        self._context = context
        self._log_tail = log_tail
        self._inside: Context | None = None  # the contextvars of everything that runs in it
        self._entered: Future[T] = Future()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._stop_requested: asyncio.Event | None = None

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._stop_requested = asyncio.Event()
        try:
            async with self._context as value:
                self._inside = copy_context()
                self._entered.set_result(value)
                await self._stop_requested.wait()
        except BaseException as error:  # named boundary: `start` or `stop` raises it in the test's thread
            self.failure = error
            if not self._entered.done():
                self._entered.set_exception(error)
        finally:
            self._ended.set()

    def timeout_error(self, what: str, timeout: float) -> TimeoutError:
        """The error of a wait that took `timeout` seconds. `what` has not happened, such as "did not start"."""
        log = self._log_tail()
        return TimeoutError(
            f"{self.name} {what} within {timeout:g} s" + (f"; its log ends with:\n{log}" if log else "")
        )

    # In a thread ----------------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> T:
        """Enter the context manager on an event loop in a new thread. Raises the error of entering, or TimeoutError
        after `timeout` seconds; nothing runs any more then."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name=f"pywatt {self.name}", daemon=True
        )
        self._thread.start()
        try:
            return self._entered.result(timeout)
        except BaseException as error:
            timed_out = not self._entered.done()
            if timed_out and self._loop is not None and self._main is not None:
                self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(timeout)
            if timed_out and isinstance(error, TimeoutError):
                raise self.timeout_error("did not start", timeout) from None
            raise

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float) -> R:
        """Run a coroutine on the event loop and return its result. Raises its error, or TimeoutError after `timeout`
        seconds."""
        assert self._loop is not None
        assert self._inside is not None
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(f"code on the event loop of {self.name} cannot wait for that loop; use await instead")
        if self._ended.is_set():
            coroutine.close()
            raise self._ended_error() from self.failure
        try:
            # In its context, so that what the coroutine logs belongs to the module.
            inside = self._inside.copy()
            future: Future[R] = inside.run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
        except RuntimeError:  # the loop has just been closed
            coroutine.close()
            raise self._ended_error() from self.failure
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done() and not future.cancelled():
                raise
            future.cancel()
            raise self.timeout_error("did not answer", timeout) from None
        except BaseException:
            future.cancel()
            if self._ended.is_set():
                raise self._ended_error() from self.failure
            raise

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the event loop soon. Does nothing if the loop has ended."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return

    def _ended_error(self) -> RuntimeError:
        why = f": {self.failure}" if self.failure is not None else ""
        return RuntimeError(f"{self.name} has stopped{why}")

    def stop(self, timeout: float) -> None:
        """Leave the context manager. Raises the error that it failed with in the background or while leaving, or
        TimeoutError after `timeout` seconds."""
        assert self._loop is not None
        assert self._stop_requested is not None
        assert self._thread is not None
        try:
            self._loop.call_soon_threadsafe(self._stop_requested.set)
        except RuntimeError:  # the loop is closed
            pass
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise self.timeout_error("did not stop", timeout)
        if self.failure is not None:
            raise self.failure

    # On the loop of the caller --------------------------------------------------------------------------------------

    async def start_here(self, timeout: float) -> T:
        """Like `start`, in a new task on the caller's event loop."""
        task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(self._entered)
        except BaseException as error:
            timed_out = isinstance(error, TimeoutError) and not task.done()
            task.cancel()
            await asyncio.wait((task,), timeout=timeout)
            if timed_out:
                raise self.timeout_error("did not start", timeout) from None
            raise

    async def stop_here(self, timeout: float) -> None:
        """Like `stop`, after `start_here`."""
        assert self._main is not None
        assert self._stop_requested is not None
        self._stop_requested.set()
        await asyncio.wait((self._main,), timeout=timeout)
        if not self._main.done():
            self._main.cancel()
            raise self.timeout_error("did not stop", timeout)
        if self.failure is not None:
            raise self.failure
