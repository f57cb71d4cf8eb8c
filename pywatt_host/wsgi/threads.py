"""The threads that run WSGI applications: few, warm and never in the way of the process's exit.

Not a `ThreadPoolExecutor`, for three reasons. Its threads are joined at exit, so one wedged request would hold the
process. It takes the thread that waited longest, the coldest one. And it wakes a thread for every job, where with the
GIL only one can run: the others wake up to queue for the GIL, and each of those switches costs more than a request.
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
        """Do the work, in a thread."""

    def settle(self) -> None:
        """Tell that it is done; called after `run`, when the job counts as running no more."""


J = TypeVar("J", bound=Job)


class _Worker(threading.Thread):
    def __init__(self, threads: Threads[J], name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._threads = threads
        # Held while the thread sleeps; released once by whoever calls it.
        self.call = threading.Lock()
        self.call.acquire()

    def run(self) -> None:
        self._threads.work(self)


class Threads(Generic[J]):
    """Up to `limit` daemon threads, started when first needed; the one that slept last is called first.

    At most one called thread is on its way to the queue at any time; on arrival it takes a job and calls the next
    thread if jobs are left. So while one thread keeps the GIL the others sleep on, and as soon as it waits for
    something (and lets the GIL go) the next is there to take over.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.running = 0
        self._limit = limit
        self._name = name
        self._lock = threading.Lock()
        self._queue: deque[J] = deque()
        self._asleep: list[_Worker] = []
        self._started = 0
        self._coming = False
        self._closed = False
        self._all_done: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def load(self) -> int:
        """Jobs running and waiting."""
        with self._lock:
            return self.running + len(self._queue)

    def submit(self, job: J) -> None:
        """Queue a job. Raises RuntimeError when the system gives not even one thread."""
        with self._lock:
            self._queue.append(job)
            called = self._next()
        if called is not None and not self._call(called) and not self._started:
            self.withdraw(job)
            raise RuntimeError("the system would not start a thread")

    def withdraw(self, job: J) -> bool:
        """Take a job back; False when a thread has it already, or had it."""
        with self._lock:
            try:
                self._queue.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> list[J]:
        """Send the threads home, each when its job is done. Returns the jobs that were still waiting."""
        with self._lock:
            self._closed = True
            waiting = list(self._queue)
            self._queue.clear()
            asleep, self._asleep = self._asleep, []
        for worker in asleep:
            worker.call.release()
        return waiting

    async def wait(self, timeout: float) -> int:
        """Wait until the running jobs are done, `timeout` seconds at most; how many still run. After `close`."""
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
        """The life of one thread."""
        job: J | None = None
        arriving = True
        while True:
            called = None
            with self._lock:
                if arriving:
                    arriving = self._coming = False
                done = job
                if done is not None:
                    self.running -= 1
                    if self._all_done and not self.running:
                        self._notify(*self._all_done)
                if self._queue:
                    job = self._queue.popleft()
                    self.running += 1
                    called = self._next()
                else:
                    job = None
                    if not self._closed:
                        self._asleep.append(worker)
                closed = self._closed
            if called is not None:
                self._call(called)
            if done is not None:
                _guarded(done.settle)
                done = None
            if job is not None:
                _guarded(job.run)
                continue
            if closed:
                return
            worker.call.acquire()
            arriving = True

    def _next(self) -> _Worker | None:
        """The thread to call for the queue's first job; None when one is coming, or all are at work. Under the lock."""
        if not self._queue or self._coming:
            return None
        if self._asleep:
            self._coming = True
            return self._asleep.pop()
        if self._started < self._limit:
            self._coming = True
            self._started += 1
            return _Worker(self, f"wsgi-{self._name}-{self._started}")
        return None

    def _call(self, worker: _Worker) -> bool:
        if worker.ident is not None:
            worker.call.release()
            return True
        try:
            worker.start()
        except RuntimeError:
            with self._lock:
                self._coming = False
                self._started -= 1
            log.warning("could not start thread %s; %d are at work", worker.name, self._started)
            return False
        return True

    @staticmethod
    def _notify(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            log.debug("the event loop closed before the last WSGI thread was done")


def _guarded(step: Callable[[], None]) -> None:
    try:
        step()
    except BaseException:  # named boundary: a job hands on its application's faults, so this one is ours
        log.critical("the WSGI bridge failed; its thread goes on", exc_info=True)
