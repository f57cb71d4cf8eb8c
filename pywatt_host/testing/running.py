"""Something that runs on an event loop beside a test: entered and left in one task, in a thread of its own or on the
test's loop."""

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


class Running(Generic[T]):
    """An async context manager between `start` and `stop`. `failure` is what ended it by itself.

    `name` is what errors call it; `said` gives what to show of it where a wait is over.
    """

    def __init__(self, context: AbstractAsyncContextManager[T], name: str, said: Callable[[], str]) -> None:
        self.failure: BaseException | None = None
        self.name = name
        self._context = context
        self._said = said
        self._inside: Context | None = None  # in which everything of it runs
        self._entered: Future[T] = Future()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._enough: asyncio.Event | None = None

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._main = asyncio.current_task()
        self._enough = asyncio.Event()
        try:
            async with self._context as value:
                self._inside = copy_context()
                self._entered.set_result(value)
                await self._enough.wait()
        except BaseException as error:  # named boundary: raised in the test's own thread, by who starts or stops it
            self.failure = error
            if not self._entered.done():
                self._entered.set_exception(error)
        finally:
            self._ended.set()

    def too_late(self, what: str, timeout: float) -> TimeoutError:
        """The error of a wait of `timeout` seconds."""
        said = self._said()
        return TimeoutError(f"{self.name} {what} within {timeout:g}s" + (f"; it logged:\n{said}" if said else ""))

    # In a thread ----------------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> T:
        """Enter it on a loop in a thread. Raises what entering raises, and TimeoutError, with all of it unwound."""
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name=f"pywatt {self.name}", daemon=True
        )
        self._thread.start()
        try:
            return self._entered.result(timeout)
        except BaseException as error:
            late = not self._entered.done()
            if late and self._loop is not None and self._main is not None:
                self._loop.call_soon_threadsafe(self._main.cancel)
            self._thread.join(timeout)
            if late and isinstance(error, TimeoutError):
                raise self.too_late("did not start", timeout) from None
            raise

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float) -> R:
        """Run a coroutine on the loop and wait for its end. Raises what it raises, and TimeoutError."""
        assert self._loop is not None
        assert self._inside is not None
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError(f"{self.name} cannot wait for its own event loop; await instead")
        if self._ended.is_set():
            coroutine.close()
            raise self._over() from self.failure
        try:
            # In its context, so that what is logged counts as logged by it.
            inside = self._inside.copy()
            future: Future[R] = inside.run(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
        except RuntimeError:  # the loop was closed in this moment
            coroutine.close()
            raise self._over() from self.failure
        try:
            return future.result(timeout)
        except TimeoutError:
            if future.done() and not future.cancelled():
                raise
            future.cancel()
            raise self.too_late("had no answer", timeout) from None
        except BaseException:
            future.cancel()
            if self._ended.is_set():
                raise self._over() from self.failure
            raise

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, soon, unless that has ended."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(function)
        except RuntimeError:
            return

    def _over(self) -> RuntimeError:
        why = f": {self.failure}" if self.failure is not None else ""
        return RuntimeError(f"{self.name} does not run any more{why}")

    def stop(self, timeout: float) -> None:
        """Leave it. Raises what it failed with in the background or while leaving, and TimeoutError."""
        assert self._loop is not None
        assert self._enough is not None
        assert self._thread is not None
        try:
            self._loop.call_soon_threadsafe(self._enough.set)
        except RuntimeError:  # the loop is closed
            pass
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise self.too_late("did not stop", timeout)
        if self.failure is not None:
            raise self.failure

    # On the loop of the caller --------------------------------------------------------------------------------------

    async def start_here(self, timeout: float) -> T:
        """As `start`, in a task beside the caller's."""
        task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(self._entered)
        except BaseException as error:
            late = isinstance(error, TimeoutError) and not task.done()
            task.cancel()
            await asyncio.wait((task,), timeout=timeout)
            if late:
                raise self.too_late("did not start", timeout) from None
            raise

    async def stop_here(self, timeout: float) -> None:
        """As `stop`."""
        assert self._main is not None
        assert self._enough is not None
        self._enough.set()
        await asyncio.wait((self._main,), timeout=timeout)
        if not self._main.done():
            self._main.cancel()
            raise self.too_late("did not stop", timeout)
        if self.failure is not None:
            raise self.failure
