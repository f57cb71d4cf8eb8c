"""The workers of all generations: who serves each place, who replaces whom, and how the pool stops."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.protocol.messages import Announce, HeartbeatAck, Shutdown, WorkerAccept, WorkerRetire
from pywatt_host.workers import pool as pool_module
from pywatt_host.workers.crash_loop import Replacements
from pywatt_host.workers.pool import WorkerPool
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.zygote_process import WorkerStartError
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until

DISPATCH: Any = {
    Announce: lambda message, peer: peer.owner.announced(message),
    HeartbeatAck: lambda message, peer: peer.owner.beaten(message),
}


def manifest(**workers: Any) -> Manifest:
    server = {"listen": "127.0.0.1:0", "workers": {"count": 2, **workers}}
    return load(Source.of_text(json.dumps({"app": "main:app", "server": server})), environ={}).manifest


class Made:
    """A generation whose workers are spoken by the test. `failures` are raised by the next starts."""

    def __init__(self, host: Pooled, number: int, manifest: Manifest) -> None:
        self.number, self.manifest = number, manifest
        self.count = manifest.server.workers.resolved()
        self.spans = StartSpans()
        self.workers: list[WorkerProcess] = []
        self.failures: list[str] = []
        self.failing_places: dict[int, str] = {}
        self.import_failure = ""
        self.closed = self.killed = 0
        self.starts = 0
        self.without_zygote: set[WorkerProcess] = set()
        self.go_on = asyncio.Event()
        self.go_on.set()
        self._host = host

    async def start(self) -> None:
        if self.import_failure:
            raise WorkerStartError(self.import_failure, 2)

    async def start_worker(self, place: int, *, healthy: bool) -> WorkerProcess:
        self.starts += 1
        await self.go_on.wait()
        if self.failures:
            raise WorkerStartError(self.failures.pop(0), 3)
        if place in self.failing_places:
            raise WorkerStartError(self.failing_places[place], 3)
        worker = await self._host.spoken(place, self.number)
        self.workers.append(worker.process)
        await worker.start()
        return worker.process

    def orphaned(self, worker: WorkerProcess) -> bool:
        return worker in self.without_zygote

    def forget(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self.workers.remove(worker)

    async def close(self) -> None:
        self.closed += 1

    def kill(self) -> None:
        self.killed += 1
        for worker in tuple(self.workers):
            worker.kill("the host ends")


class Pooled:
    """A pool, and every worker that was started for it."""

    def __init__(self) -> None:
        self.spoken_workers: dict[WorkerProcess, SpokenWorker] = {}
        self.events: list[tuple[str, int]] = []
        self.killed: list[tuple[WorkerProcess, str]] = []
        self.generations = self.started = 0
        self.pool = WorkerPool(
            joined=lambda worker: self.events.append(("joined", worker.key)),
            left=lambda worker: self.events.append(("left", worker.key)),
            vanished=lambda worker: self.ends(worker, -9),
        )
        self.pool._replacements = Replacements(lambda low, high: 0.02)  # delays fifty times shorter

    async def spoken(self, place: int, generation: int) -> SpokenWorker:
        self.started += 1
        worker = await SpokenWorker.opened(DISPATCH, place, generation=generation, key=self.started)
        worker.process.pid = 2**30  # no process has that
        worker.process.kill = lambda why: self._kill(worker.process, why)  # type: ignore[method-assign]
        self.spoken_workers[worker.process] = worker
        return worker

    def _kill(self, worker: WorkerProcess, why: str) -> None:
        self.killed.append((worker, why))
        worker._ended_by = worker._ended_by or why
        asyncio.get_running_loop().call_soon(self.ends, worker, -9)

    def ends(self, worker: WorkerProcess, code: int = 0) -> None:
        if not worker.ended.done():
            worker.has_ended(code)
            self.pool.gone(worker)

    def generation(self, **workers: Any) -> Any:
        self.generations += 1
        return Made(self, self.generations, manifest(**workers))

    async def use(self, **workers: Any) -> Any:
        """A generation in use."""
        generation = self.generation(**workers)
        self.pool.put_to_use(generation, await self.pool.start(generation, healthy=True), "a reload")
        return generation

    def serve(self, *keys: int) -> bool:
        return self.serving() == list(keys)

    def serving(self) -> list[int]:
        return [worker.key for worker in self.pool.accepting()]

    def at(self, place: int) -> WorkerProcess:
        return next(worker for worker in self.pool.accepting() if worker.place == place)

    def looks(self, times: int = 1) -> None:
        """Look at all workers now."""
        for _ in range(times):
            for worker in tuple(self.pool.all()):
                self.pool._look(worker, asyncio.get_running_loop().time())


@asynccontextmanager
async def pooled() -> AsyncIterator[Pooled]:
    host = Pooled()
    try:
        yield host
    finally:
        await host.pool.close()
        for worker in host.spoken_workers.values():
            await worker.end()


def in_pool(test: Callable[[Pooled], Awaitable[None]]) -> None:
    async def main() -> None:
        async with pooled() as host:
            await test(host)

    run(main)


# Generations ----------------------------------------------------------------------------------------------------------


def test_the_first_worker_starts_alone_and_all_accept_together() -> None:
    async def test(host: Pooled) -> None:
        generation = host.generation(count=3)
        generation.go_on.clear()
        starting = asyncio.create_task(host.pool.start(generation, healthy=False))
        await until(lambda: generation.starts)
        await asyncio.sleep(0.01)
        assert generation.starts == 1
        generation.go_on.set()
        workers = await starting
        assert [worker.place for worker in workers] == [0, 1, 2]
        assert (host.events, host.serving()) == ([], [])
        host.pool.put_to_use(generation, workers, "")
        assert (host.serving(), host.pool.wanted) == ([1, 2, 3], 3)
        for worker in workers:
            await host.spoken_workers[worker].hear(WorkerAccept)
        assert host.events == [("joined", 1), ("joined", 2), ("joined", 3)]

    in_pool(test)


def test_a_new_generation_accepts_before_the_old_one_is_retired_and_the_old_one_ends_with_its_last_worker() -> None:
    async def test(host: Pooled) -> None:
        old = await host.use()
        before = host.pool.accepting()
        new = await host.use()
        assert host.serving() == [3, 4]
        assert host.events[2:] == [("joined", 3), ("joined", 4), ("left", 1), ("left", 2)]
        for worker in before:
            spoken = host.spoken_workers[worker]
            await spoken.hear(WorkerAccept)
            assert (await spoken.hear(WorkerRetire)).why == "a reload"
            assert (worker.state, worker.replaced) == ("draining", True)
        host.ends(before[0])
        assert (old.closed, host.pool.generations) == (0, [old, new])
        host.ends(before[1])
        await until(lambda: old.closed)
        assert host.pool.generations == [new]
        await asyncio.sleep(0.05)
        assert (new.starts, host.pool.restarts) == (2, {})

    in_pool(test)


def test_fewer_workers_leave_no_place_behind_and_more_are_added() -> None:
    async def test(host: Pooled) -> None:
        await host.use(count=3)
        await host.use(count=1)
        assert (host.serving(), host.pool.wanted) == ([4], 1)
        await host.use(count=2)
        assert (host.serving(), host.pool.wanted) == ([5, 6], 2)

    in_pool(test)


@pytest.mark.parametrize("failing", ["the code", "the first worker", "another worker"])
def test_where_a_generation_cannot_start_none_of_it_runs_and_the_old_one_serves_on(failing: str) -> None:
    async def test(host: Pooled) -> None:
        old = await host.use()
        new = host.generation(count=3)
        if failing == "the code":
            new.import_failure = "it has a fault"
        else:
            new.failing_places[0 if failing == "the first worker" else 2] = "it has a fault"
        with pytest.raises(WorkerStartError, match="it has a fault"):
            await host.pool.start(new, healthy=True)
        await until(lambda: new.workers == [])
        assert (new.closed, host.pool.generations, host.serving()) == (1, [old], [1, 2])
        assert host.pool.restarts == {}

    in_pool(test)


def test_a_worker_that_has_ended_before_the_swap_is_replaced_after_it() -> None:
    async def test(host: Pooled) -> None:
        generation = host.generation()
        workers = await host.pool.start(generation, healthy=True)
        host.ends(workers[1], 1)
        host.pool.put_to_use(generation, workers, "")
        await until(lambda: host.serving() == [1, 3])

    in_pool(test)


# Messages -------------------------------------------------------------------------------------------------------------


def test_candidates_take_turns_healthy_ones_first() -> None:
    async def test(host: Pooled) -> None:
        await host.use(count=3)
        assert sorted(host.pool.candidates()[0].key for _ in range(6)) == [1, 1, 2, 2, 3, 3]
        host.at(1).report = {"status": "unhealthy"}
        assert {worker.key for worker in host.pool.candidates()} == {1, 3}
        for worker in host.pool.accepting():
            worker.report = {"status": "unhealthy"}
        assert {worker.key for worker in host.pool.candidates()} == {1, 2, 3}

    in_pool(test)


# Replacing ------------------------------------------------------------------------------------------------------------


def test_a_worker_that_ends_is_replaced_at_once_and_later_ones_after_a_delay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(host: Pooled) -> None:
        await host.use()
        host.ends(host.at(1), -9)
        assert host.serving() == [1]
        await until(lambda: host.serving() == [1, 3])
        assert host.pool.restarts == {"ended": 1}
        for number in range(4, 7):
            host.ends(host.at(1), 3)
            await until(partial(host.serve, 1, number))
        assert host.pool.looping is False
        host.ends(host.at(1), 3)
        assert host.pool.looping is True

    in_pool(test)
    assert "worker 2 has ended (killed by SIGKILL); another one starts in its place" in caplog.text


def test_a_place_is_tried_again_until_a_worker_starts_there(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Pooled) -> None:
        generation = await host.use()
        generation.failures = ["the disk is full", "the disk is full"]
        host.ends(host.at(0), 1)
        await until(lambda: host.serving() == [3, 2])
        assert generation.starts == 5

    in_pool(test)
    assert caplog.text.count("no worker could start in place of worker 1: the disk is full") == 2


def test_a_place_that_waits_is_filled_by_the_generation_that_is_in_use_then() -> None:
    async def test(host: Pooled) -> None:
        old = await host.use()
        old.go_on.clear()
        host.ends(host.at(0), 1)
        await until(lambda: old.starts == 3)
        await host.use()
        assert host.serving() == [3, 4]
        old.go_on.set()
        host.ends(host.at(0), 1)
        await until(lambda: host.serving() == [5, 4])
        assert (host.at(0).generation, len(old.workers)) == (2, 1)

    in_pool(test)


def test_a_worker_of_a_new_generation_is_replaced_at_once_though_its_place_waits_for_one_of_the_old() -> None:
    async def test(host: Pooled) -> None:
        old = await host.use()
        old.go_on.clear()
        host.ends(host.at(0), 1)
        await until(lambda: old.starts == 3)
        await host.use()
        host.ends(host.at(0), 1)
        await until(lambda: len(host.serving()) == 2)

    in_pool(test)


def test_a_worker_that_does_not_answer_is_killed_at_the_ping_limit_and_counted_as_blocked() -> None:
    async def test(host: Pooled) -> None:
        await host.use(ping_limit="1s")
        worker = host.at(0)
        worker.silent_for = lambda: 0.9  # type: ignore[method-assign]
        host.looks()
        assert host.killed == []
        worker.silent_for = lambda: 1.0  # type: ignore[method-assign]
        host.looks()
        assert [why for _, why in host.killed] == ["it did not answer for 1s (server.workers.ping_limit)"]
        await until(lambda: host.serving() == [3, 2])
        assert host.pool.restarts == {"blocked": 1}

    in_pool(test)


def test_a_worker_that_does_not_end_its_drain_is_killed() -> None:
    async def test(host: Pooled) -> None:
        await host.use()
        (worker, _) = host.pool.accepting()
        await host.use()
        worker.silent_for = lambda: 1000.0  # type: ignore[method-assign] # it may be blocked, its limit is that of the drain
        host.looks()
        assert host.killed == []
        host.pool._retired[worker] = 0.0
        host.looks()
        assert host.killed == [(worker, "it did not end in time")]
        await until(worker.ended.done)
        await asyncio.sleep(0.05)
        assert (host.serving(), host.pool.restarts) == ([3, 4], {})

    in_pool(test)


def test_a_worker_whose_zygote_has_gone_is_found_by_the_end_of_its_connection() -> None:
    async def test(host: Pooled) -> None:
        generation = await host.use()
        worker = host.at(0)
        generation.without_zygote.add(worker)
        host.looks()
        assert not worker.ended.done()
        host.spoken_workers[worker].leave()

        def replaced() -> bool:
            host.looks()
            return host.serving() == [3, 2]

        await until(replaced)

    in_pool(test)


# Recycling ------------------------------------------------------------------------------------------------------------


def test_workers_are_recycled_one_at_a_time_new_before_old() -> None:
    async def test(host: Pooled) -> None:
        generation = await host.use(recycle={"requests": 10, "jitter": "0%"})
        for worker in host.pool.accepting():
            worker.report = {**(worker.report or {}), "requests": 10}
        generation.go_on.clear()
        host.pool._recycle()
        await until(lambda: generation.starts == 3)
        host.pool._recycle()
        await asyncio.sleep(0.01)
        assert (generation.starts, host.serving()) == (3, [1, 2])
        generation.go_on.set()
        await until(lambda: 3 in host.serving())
        assert host.pool.restarts == {"recycled": 1}
        (gone,) = {1, 2} - set(host.serving())
        assert host.events[2:] == [("joined", 3), ("left", gone)]
        host.pool._recycle()
        await until(lambda: sorted(host.serving()) == [3, 4])
        host.pool._recycle()
        await asyncio.sleep(0.01)
        assert generation.starts == 4

    in_pool(test)


def test_a_worker_stays_where_its_successor_cannot_start(caplog: pytest.LogCaptureFixture) -> None:
    async def test(host: Pooled) -> None:
        generation = await host.use(recycle={"requests": 10, "jitter": "0%"})
        host.at(0).report = {"status": "healthy", "requests": 11}
        generation.failures = ["no memory"]
        host.pool._recycle()
        await until(lambda: "worker 1 stays" in caplog.text)
        assert host.serving() == [1, 2]
        host.pool._recycle()
        await until(lambda: host.serving() == [3, 2])

    in_pool(test)


def test_a_successor_that_a_reload_has_overtaken_ends() -> None:
    async def test(host: Pooled) -> None:
        old = await host.use(recycle={"requests": 10, "jitter": "0%"})
        host.at(0).report = {"status": "healthy", "requests": 11}
        old.go_on.clear()
        host.pool._recycle()
        await until(lambda: old.starts == 3)
        await host.use()
        old.go_on.set()
        await until(lambda: [why for _, why in host.killed] == ["it is not needed"])
        assert host.serving() == [3, 4]
        assert host.pool.restarts == {}

    in_pool(test)


# Stopping -------------------------------------------------------------------------------------------------------------


def test_at_the_stop_all_workers_drain_and_none_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "pywatt.workers")

    async def test(host: Pooled) -> None:
        generation = await host.use()
        first, second = host.pool.accepting()
        stop = asyncio.create_task(host.pool.shut_down())
        for worker in (first, second):
            spoken = host.spoken_workers[worker]
            await spoken.hear(WorkerAccept)
            await spoken.hear(Shutdown)
        assert not stop.done()
        first.begun_to_drain()  # until then it may give connections away
        host.ends(second, 0)
        await asyncio.wait_for(stop, 0.2)
        host.ends(first, 0)
        assert await host.pool.wait(5.0) == 0
        assert host.pool.exit_codes == [0, 0]
        await asyncio.sleep(0.05)
        assert generation.starts == 2

    in_pool(test)
    assert caplog.text == ""


def test_at_the_stop_who_does_not_end_in_time_is_killed_and_counted() -> None:
    async def test(host: Pooled) -> None:
        await host.use()
        first, second = host.pool.accepting()
        stop = asyncio.create_task(host.pool.shut_down())
        await asyncio.sleep(0)
        host.ends(first, 0)
        await stop
        assert await host.pool.wait(0.05) == 1
        assert host.killed == [(second, "it did not stop in time")]
        assert host.pool.exit_codes == [0, -9]

    in_pool(test)


def test_a_place_that_waits_is_given_up_at_the_stop() -> None:
    async def test(host: Pooled) -> None:
        generation = await host.use()
        generation.go_on.clear()
        host.ends(host.at(0), 1)
        await until(lambda: generation.starts == 3)
        stop = asyncio.create_task(host.pool.shut_down())
        await asyncio.sleep(0)
        generation.go_on.set()
        await until(lambda: [why for _, why in host.killed] == ["it is not needed"])
        assert host.serving() == [2]
        await until(lambda: len(generation.workers) == 1)
        await stop
        assert host.pool.exit_codes == []  # it has served nothing that was cut

    in_pool(test)


def test_the_watch_pings_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "PING_INTERVAL", 0.01)

    async def test(host: Pooled) -> None:
        await host.use()
        worker = host.at(0)
        worker.report = None
        watching = asyncio.create_task(host.pool.watch())
        await until(lambda: worker.report is not None)
        watching.cancel()

    in_pool(test)


def test_at_the_end_a_generation_that_is_closing_gets_its_time() -> None:
    async def test(host: Pooled) -> None:
        old, closing, go_on, ended = await host.use(), asyncio.Event(), asyncio.Event(), []

        async def close() -> None:  # as one that sends its last spans
            closing.set()
            await go_on.wait()
            ended.append("closed")

        old.close = close
        before = host.pool.accepting()
        await host.use()
        for worker in before:
            host.ends(worker)
        await closing.wait()
        end = asyncio.create_task(host.pool.close())
        await asyncio.sleep(0)
        go_on.set()
        await end
        assert ended == ["closed"]

    in_pool(test)
