"""The workers of a host over all generations: who serves each place, and who replaces a worker that ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.workers.crash_loop import CrashLoop, Replacements
from pywatt_host.workers.generation import Generation
from pywatt_host.workers.memory import own_memory
from pywatt_host.workers.recycling import Recycling, WorkerUse
from pywatt_host.workers.worker_process import PING_INTERVAL, WorkerProcess
from pywatt_host.workers.zygote_process import WorkerStartError

logger = logging.getLogger("pywatt.workers")

_MEMORY_INTERVAL = 2.0  # seconds between two measurements of the memory of workers
_RECYCLE_INTERVAL = 1.0  # seconds between two looks whether a worker has served long enough
_CLOSE_TIME = 3.0  # seconds for a generation that ends already when the host does
_DRAIN_TOLD_WITHIN = 0.5  # seconds for workers to tell that they drain
_END_TOLD_WITHIN = 0.5  # seconds for a zygote to tell that a worker has ended
_DRAIN_GRACE = 2.0  # seconds after the shutdown limit, at which a worker that drains is killed


class WorkerPool:
    """Keeps one worker accepting at each place of the current generation.

    `joined` is called with a worker that accepts from now on, `left` with one that gets no further connections,
    `vanished` with one that has ended though nobody told of its end.
    """

    def __init__(
        self,
        *,
        joined: Callable[[WorkerProcess], None],
        left: Callable[[WorkerProcess], None],
        vanished: Callable[[WorkerProcess], None],
    ) -> None:
        self.current: Generation | None = None
        self.generations: list[Generation] = []  # also those whose workers still drain
        self.restarts: Counter[str] = Counter()  # of workers, by reason
        self.stopping = False
        self.exit_codes: list[int] = []  # of workers that served, and have ended while the host stopped
        self._joined = joined
        self._left = left
        self._vanished = vanished
        self._places: dict[int, WorkerProcess] = {}
        self._filling: dict[int, asyncio.Task[None]] = {}  # places that wait for a worker
        self._crash_loop = CrashLoop(time.monotonic)
        self._replacements = Replacements()
        self._recycling: Recycling | None = None
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()  # those of `_tasks` that close a generation
        self._retired: dict[WorkerProcess, float] = {}  # when a worker that drains is killed
        self._memory: dict[WorkerProcess, int | None] = {}  # bytes, as measured last
        self._one_recycled = asyncio.Lock()

    # Who there is ---------------------------------------------------------------------------------------------------

    def all(self) -> Iterator[WorkerProcess]:
        """Every worker that has not ended."""
        for generation in self.generations:
            yield from tuple(generation.workers)

    def accepting(self) -> list[WorkerProcess]:
        """The workers that accept connections, by place."""
        return [self._places[place] for place in sorted(self._places)]

    def candidates(self) -> Sequence[WorkerProcess]:
        """The workers that take a message, the next one first: healthy ones, or all that answer where none is."""
        found = [worker for worker in self.accepting() if worker.responsive]
        found = [worker for worker in found if worker.healthy] or found
        if len(found) > 1:
            self._next += 1
            first = self._next % len(found)
            found = found[first:] + found[:first]
        return found

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        return self.current.count if self.current is not None else 0

    @property
    def looping(self) -> bool:
        """Whether workers end again and again soon after their start."""
        return self._crash_loop.looping

    def memory(self, worker: WorkerProcess) -> int | None:
        """The memory of a worker in bytes, measured in the last seconds; None where it cannot be measured."""
        return self._memory.get(worker)

    # Generations ----------------------------------------------------------------------------------------------------

    async def start(self, generation: Generation, *, healthy: bool) -> list[WorkerProcess]:
        """Start all workers of a generation, and return them ready to accept. The first one starts alone, so that what
        is wrong is said once. Raises WorkerStartError; none of them runs then."""
        self.generations.append(generation)
        spans = generation.spans
        try:
            with spans.part("import the code"):
                await generation.start()
            with spans.part("start workers"):
                workers = [await generation.start_worker(0, healthy=healthy)]
                others = (generation.start_worker(place, healthy=healthy) for place in range(1, generation.count))
                results = await asyncio.gather(*others, return_exceptions=True)
                for result in results:
                    if isinstance(result, BaseException):
                        raise result
                    workers.append(result)
            return workers
        except BaseException as error:
            if self.current is None:
                spans.end(type(error).__qualname__)  # it is sent with what belongs to the generation
            await self.discard(generation)
            raise

    async def discard(self, generation: Generation) -> None:
        """End a generation that was not put to use."""
        generation.kill()
        ends = [worker.ended for worker in generation.workers if worker.pid is not None]
        if ends:
            await asyncio.wait(ends, timeout=_DRAIN_GRACE)
        if generation in self.generations:
            self.generations.remove(generation)
        await generation.close()

    def put_to_use(self, generation: Generation, workers: Sequence[WorkerProcess], why: str) -> None:
        """Let these workers accept, and retire all others."""
        self.current = generation
        for filling in self._filling.values():  # with workers of the old one
            filling.cancel()
        self._filling.clear()
        self._crash_loop = CrashLoop(time.monotonic)
        for place in range(generation.count):
            self._replacements.forget(place)
        before, self._places = self._places, {}
        for worker in workers:
            if worker.state == "ended":  # since it was ready
                self._places.pop(worker.place, None)
                self._fill(worker.place, worker.age)
                continue
            self._take_place(worker)
        for worker in before.values():
            self._retire(worker, why)
        for older in tuple(self.generations):
            self._close_drained(older)

    def _take_place(self, worker: WorkerProcess) -> None:
        self._places[worker.place] = worker
        worker.accept()
        self._joined(worker)

    def _retire(self, worker: WorkerProcess, why: str) -> None:
        worker.replaced = True
        self._left(worker)
        worker.retire(why)
        self._begin_drain(worker)

    def _begin_drain(self, worker: WorkerProcess) -> None:
        generation = self._of(worker)
        limit = generation.manifest.server.timeouts.shutdown if generation is not None else 0.0
        self._retired[worker] = time.monotonic() + limit + _DRAIN_GRACE

    def _of(self, worker: WorkerProcess) -> Generation | None:
        return next((each for each in self.generations if each.number == worker.generation), None)

    # Replacing ------------------------------------------------------------------------------------------------------

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: another one takes its place, unless it was told to end."""
        self._retired.pop(worker, None)
        self._memory.pop(worker, None)
        generation = self._of(worker)
        if generation is not None:
            generation.forget(worker)
            self._close_drained(generation)
        if self.stopping:
            if worker.accepted:
                self.exit_codes.append(worker.ended.result())
            return
        if self._places.get(worker.place) is worker:
            del self._places[worker.place]
            self._left(worker)
            logger.error(
                "%s has ended (%s); another one starts in its place", worker.name, worker.ending(),
                extra={"worker": worker.place + 1, "pid": worker.pid},
            )  # fmt: skip
            self._ended_early(worker.age)
            self.restarts["blocked" if "did not answer" in worker.ending() else "ended"] += 1
            self._fill(worker.place, worker.age)

    def _ended_early(self, lived: float) -> None:
        """A worker has ended that was not told to; say so once where that happens again and again."""
        before = self.looping
        self._crash_loop.ended(lived)
        if self.looping and not before:
            logger.error(
                "workers end again and again soon after their start; each further one starts later. Look at what the"
                " workers have logged, and reload when it is mended"
            )

    def drains(self, worker: WorkerProcess) -> None:
        """A worker accepts no more. Where it was not told to (somebody has sent it SIGTERM), another one starts in its
        place at once."""
        worker.begun_to_drain()
        if self.stopping or self._places.get(worker.place) is not worker:
            return
        logger.warning(
            "%s was told to stop; another one starts in its place", worker.name,
            extra={"worker": worker.place + 1, "pid": worker.pid},
        )  # fmt: skip
        del self._places[worker.place]
        worker.replaced = True
        self._left(worker)
        self._begin_drain(worker)
        self.restarts["ended"] += 1
        self._fill(worker.place, worker.age)

    def _close_drained(self, generation: Generation) -> None:
        """End an old generation once its last worker has ended."""
        current = self.current
        if current is None or generation.number >= current.number or generation.workers:
            return
        if generation in self.generations:
            self.generations.remove(generation)
            self._closing.add(closing := self._spawn(generation.close()))
            closing.add_done_callback(self._closing.discard)

    def _fill(self, place: int, lived: float) -> None:
        if place not in self._filling and not self.stopping:
            self._filling[place] = self._spawn(self._filled(place, lived))

    async def _filled(self, place: int, lived: float) -> None:
        """Start workers at a place until one accepts there. The last one there ran for `lived` seconds."""
        try:
            while not self.stopping and self.current is not None and place < self.wanted and place not in self._places:
                await asyncio.sleep(self._replacements.delay_after(place, lived))
                lived = 0.0
                generation = self.current
                try:
                    worker = await generation.start_worker(place, healthy=False)
                except WorkerStartError as error:
                    self._ended_early(0.0)
                    logger.error(
                        "no worker could start in place of worker %d: %s", place + 1, error,
                        extra={"worker": place + 1},
                    )  # fmt: skip
                    continue
                if self.stopping or place in self._places:
                    worker.replaced = True
                    worker.kill("it is not needed")
                    continue
                self._take_place(worker)
                logger.info("%s accepts connections", worker.name, extra={"worker": place + 1, "pid": worker.pid})
        finally:
            if self._filling.get(place) is asyncio.current_task():
                del self._filling[place]

    async def watch(self) -> None:
        """Ping all workers, replace those that do not answer, and recycle, for as long as this is awaited."""
        clock = RunningClock(PING_INTERVAL)
        recycled = measured = 0.0
        while True:
            await clock.next_look()
            now = time.monotonic()
            for worker in tuple(self.all()):
                self._look(worker, now)
            if now - measured >= _MEMORY_INTERVAL:
                measured = now
                self._spawn(self._measure())
            if now - recycled >= _RECYCLE_INTERVAL and not self.stopping:
                recycled = now
                self._recycle()

    async def _measure(self) -> None:
        """Measure the memory of all workers, in a thread: it takes a millisecond for each 100 MiB."""
        workers = [worker for worker in self.all() if worker.pid is not None]
        found = await asyncio.to_thread(lambda: [own_memory(worker.pid or 0) for worker in workers])
        self._memory = dict(zip(workers, found, strict=True))

    def _look(self, worker: WorkerProcess, now: float) -> None:
        worker.look()
        generation = self._of(worker)
        if generation is None:
            return
        limit = self.current.manifest.server.workers.ping_limit if self.current is not None else 10.0
        killed_at = self._retired.get(worker)
        if killed_at is not None:
            if now >= killed_at:
                worker.kill("it did not end in time")
        elif worker.state in ("ready", "accepting") and worker.silent_for() >= limit:
            worker.kill(f"it did not answer for {limit:g}s (server.workers.ping_limit)")
        serves = worker.state in ("ready", "accepting")
        untold = worker.closed_for >= _END_TOLD_WITHIN if serves else worker.closed_for > 0
        if worker.state != "ended" and untold and (serves or generation.orphaned(worker)):
            self._end_untold(worker)

    def _end_untold(self, worker: WorkerProcess) -> None:
        """A worker whose zygote has ended, or stands still: the end of its connection says that it has ended."""
        if worker.state != "draining":
            worker.kill("its connection ended")
        self._vanished(worker)

    def _recycle(self) -> None:
        """Begin to replace a worker that has served long enough: one at a time, and new before old."""
        generation = self.current
        if generation is None or self._one_recycled.locked() or self._filling:
            return
        limits = generation.manifest.server.workers.recycle
        if self._recycling is None or self._recycling.limits != limits:
            self._recycling = Recycling(limits)
        workers = {worker.key: worker for worker in self.accepting()}
        used = [
            WorkerUse(key, worker.requests, worker.age, self._memory.get(worker)) for key, worker in workers.items()
        ]
        due = self._recycling.due(used, replacing=False)
        if due is not None:
            self._spawn(self._replaced(generation, workers[due.id], due.reason))

    async def _replaced(self, generation: Generation, worker: WorkerProcess, reason: str) -> None:
        async with self._one_recycled:
            try:
                successor = await generation.start_worker(worker.place, healthy=True)
            except WorkerStartError as error:
                logger.error("%s stays: no worker could start in its place: %s", worker.name, error)
                return
            if generation is not self.current or self.stopping or self._places.get(worker.place) is not worker:
                successor.replaced = True
                successor.kill("it is not needed")
                return
            logger.info("%s is recycled: %s", worker.name, reason, extra={"worker": worker.place + 1})
            self.restarts["recycled"] += 1
            self._take_place(successor)
            self._retire(worker, f"it is recycled: {reason}")

    # Stopping -------------------------------------------------------------------------------------------------------

    async def shut_down(self) -> None:
        """Let every worker drain with the host, and return once those that respond have begun to."""
        self.stopping = True
        for worker in self.all():
            if worker.state == "starting":
                worker.kill("the host stops")
            elif worker.state != "draining":
                worker.shut_down()
        told = [worker.drains for worker in self.all() if worker.state == "draining" and worker.responsive]
        if told:
            await asyncio.wait(told, timeout=_DRAIN_TOLD_WITHIN)

    async def wait(self, timeout: float) -> int:
        """Wait until all workers have ended. Returns how many had to be killed after `timeout` seconds."""
        ends = [worker.ended for worker in self.all() if worker.pid is not None]
        if ends:
            await asyncio.wait(ends, timeout=timeout)
        left = [worker for worker in self.all() if worker.pid is not None]
        for worker in left:
            logger.error("%s did not stop in time and is killed", worker.name, extra={"worker": worker.place + 1})
            worker.kill("it did not stop in time")
        if left:
            await asyncio.wait([worker.ended for worker in left], timeout=1.0)
        return len(left)

    async def close(self) -> None:
        """End all generations. A generation that is closing already may finish, for a few seconds: it sends its last
        spans."""
        self.stopping = True
        for task in self._tasks - self._closing:
            task.cancel()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_CLOSE_TIME)
        for generation in tuple(self.generations):
            generation.kill()
            await generation.close()
        self.generations.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
