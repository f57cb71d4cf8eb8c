"""The threads that run WSGI applications.

A `ThreadPoolExecutor` does not fit, for three reasons. Its threads are joined at exit, so that one request that hangs
would keep the process alive. It uses the thread that has been idle for longest, whose caches are cold. And it wakes a
thread for every job, but with the GIL only one can run: the others wake up to wait for the GIL, and each of these
switches costs more than a request.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

log = logging.getLogger("pywatt.wsgi")


class Job(Protocol):
    def run(self) -> None:
        """Do the work. Called in a thread."""

    def settle(self) -> None:
        """Report that the job is done. Called after `run`, when the job no longer counts as running."""


J = TypeVar("J", bound=Job)


class _Worker(threading.Thread):
    def __init__(self, threads: Threads[J], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._threads = threads
        # Held while the thread is idle; released once by the thread that wakes it.
        self.wake = threading.Lock()
        self.wake.acquire()

    def run(self) -> None:
        self._threads.work(self)


class Threads(Generic[J]):
    """Up to `limit` daemon threads, which start when they are first needed. The thread that became idle last is woken
    first.

    At most one thread at a time is being woken. When it runs, it takes a job, and wakes the next thread if jobs are
    left. While one thread holds the GIL, the others stay asleep; as soon as it waits for something and releases the
    GIL, the next one takes over.
    """

    def __init__(self, limit: int, name: str, exhausted: Callable[[], None] = lambda: None) -> None:
        """`exhausted` is called, in any thread, when a job has to wait since all threads are busy."""
        self.running = 0
        self._limit = limit
        self._name = name
        self._exhausted = exhausted
        self._lock = threading.Lock()
        self._queue: deque[J] = deque()
        self._idle: list[_Worker] = []
        self._started = 0
        self._waking = False  # whether a thread has been woken that does not run yet
        self._closed = False
        self._all_done: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def load(self) -> int:
        """Return the number of jobs that run or wait. It may be one less while a thread takes a job."""
        return self.running + len(self._queue)

    def submit(self, job: J) -> None:
        """Queue a job. Raises RuntimeError if the system cannot start a single thread."""
        with self._lock:
            self._queue.append(job)
            worker = self._next()
            exhausted = self.running >= self._limit
        if exhausted:
            self._exhausted()
        if worker is not None and not self._wake(worker) and not self._started:
            self.withdraw(job)
            raise RuntimeError("the system would not start a thread")

    def withdraw(self, job: J) -> bool:
        """Remove a job from the queue. Return False if a thread has taken it already."""
        with self._lock:
            try:
                self._queue.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> list[J]:
        """End the threads, each after its job. Return the jobs that were still waiting."""
        with self._lock:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.wake.release()
        return waiting

    async def wait(self, timeout: float) -> int:
        """Wait up to `timeout` seconds for the running jobs, and return how many still run. Call `close` first."""
        done = asyncio.Event()
        with self._lock:
            if not self.running:
                return 0
            self._all_done = (asyncio.get_running_loop(), done)
        try:
            async with asyncio.timeout(timeout):
                await done.wait()
        except TimeoutError:
            pass
        finally:
            self._all_done = None
        return self.running

    def work(self, worker: _Worker) -> None:
        """Run jobs until the threads are closed. Called in the worker's thread."""
        job: J | None = None
        woken = True
        while True:
            next_worker = None
            exhausted = False
            with self._lock:
                if woken:
                    woken = self._waking = False
                done = job
                if done is not None:
                    self.running -= 1
                    if self._all_done and not self.running:
                        self._notify(*self._all_done)
                if self._queue:
                    job = self._queue.popleft()
                    self.running += 1
                    if self._queue:
                        next_worker = self._next()
                        exhausted = self.running >= self._limit
                else:
                    job = None
                    if not self._closed:
                        self._idle.append(worker)
                closed = self._closed
            if next_worker is not None:
                self._wake(next_worker)
            if done is not None:
                _guarded(done.settle)
                done = None
            if exhausted:
                _guarded(self._exhausted)
            if job is not None:
                _guarded(job.run)
                continue
            if closed:
                return
            worker.wake.acquire()
            woken = True

    def _next(self) -> _Worker | None:
        """Return the thread to wake for the first job in the queue. None if a thread is being woken already, or if all
        threads are busy. The caller holds the lock."""
        if not self._queue or self._waking:
            return None
        if self._idle:
            self._waking = True
            return self._idle.pop()
        if self._started < self._limit:
            self._waking = True
            self._started += 1
            return _Worker(self, f"wsgi-{self._name}-{self._started}")
        return None

    def _wake(self, worker: _Worker) -> bool:
        """Wake or start a thread. Return False if the system cannot start it."""
        if worker.ident is not None:
            worker.wake.release()
            return True
        try:
            worker.start()
        except RuntimeError:
            with self._lock:
                self._waking = False
                self._started -= 1
            log.warning("could not start thread %s; %d threads run", worker.name, self._started)
            return False
        return True

    @staticmethod
    def _notify(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            log.debug("the event loop closed before the last WSGI thread ended")


def _guarded(step: Callable[[], None]) -> None:
    try:
        step()
    except BaseException:  # named boundary: a job keeps its application's exceptions, so this one is a bug here
        log.critical("the WSGI bridge failed; its thread continues", exc_info=True)
