"""One worker, as the supervisor sees it: pings, answers, states, and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.protocol.messages import (
    Announce,
    GetSnapshot,
    HeartbeatAck,
    Shutdown,
    WorkerAccept,
    WorkerRetire,
)
from pywatt_host.workers.worker_process import PING_INTERVAL
from tests.hosting import run
from tests.workers.supervised import SpokenWorker, until

DISPATCH: Any = {
    Announce: lambda message, peer: peer.owner.announced(message),
    HeartbeatAck: lambda message, peer: peer.owner.beaten(message),
}


class Time:
    """A clock that goes on when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Looked:
    """A worker at which the supervisor looks when the test says so."""

    def __init__(self, worker: SpokenWorker) -> None:
        self.worker, self.process = worker, worker.process
        self.time = Time()
        self.process._clock = RunningClock(PING_INTERVAL, self.time)

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.time.now += PING_INTERVAL
            self.process.look()


@asynccontextmanager
async def looked(dispatch: Any = DISPATCH) -> AsyncIterator[Looked]:
    worker = await SpokenWorker.opened(dispatch)
    try:
        yield Looked(worker)
    finally:
        await worker.end()


def in_view(test: Callable[[Looked], Awaitable[None]]) -> None:
    async def main() -> None:
        async with looked() as view:
            await test(view)

    run(main)


def test_a_worker_is_ready_once_it_has_announced_itself_and_answered_a_ping() -> None:
    async def test(view: Looked) -> None:
        view.look()  # a ping before it serves
        await until(lambda: view.process.report is not None)
        assert (view.process.state, view.process.started.done()) == ("starting", False)
        view.worker.report["status"] = "unhealthy"
        await view.worker.start()
        assert (view.process.state, view.process.passed.done()) == ("ready", False)
        view.worker.report["status"] = "degraded"
        view.look()
        await asyncio.wait_for(view.process.passed, 5)
        assert not view.process.healthy  # it does not accept yet
        view.process.accept()
        await view.worker.hear(WorkerAccept)
        assert (view.process.state, view.process.healthy) == ("accepting", True)

    in_view(test)


def test_a_worker_that_does_not_answer_for_half_a_second_is_not_responsive_until_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(view: Looked) -> None:
        await view.worker.start()
        view.worker.answers = False
        view.look()
        changes = view.worker.changes
        view.look()
        assert view.process.responsive
        view.look()
        assert (view.process.responsive, view.worker.changes) == (False, changes + 1)
        view.look(7)
        assert view.worker.changes == changes + 1
        assert view.process.silent_for() == pytest.approx(9 * PING_INTERVAL)
        view.worker.say(HeartbeatAck(view.worker.report))
        await until(lambda: view.process.responsive)
        assert (view.process.silent_for(), view.worker.changes) == (0.0, changes + 2)

    in_view(test)
    assert caplog.text.count("worker 1 does not answer") == 1


def test_a_pause_of_the_supervisor_is_not_held_against_a_worker() -> None:
    async def test(view: Looked) -> None:
        await view.worker.start()
        view.worker.answers = False
        view.look()
        view.time.now += 60.0
        view.look()
        assert view.process.responsive
        assert view.process.silent_for() < 1.0

    in_view(test)


def test_a_worker_that_has_no_connection_yet_is_not_pinged_and_can_end() -> None:
    async def main() -> None:
        worker = SpokenWorker()
        worker.process.look()
        assert worker.process.silent_for() == 0.0
        worker.process.has_ended(3)
        worker.process.has_ended(4)
        assert (worker.process.state, worker.process.ended.result()) == ("ended", 3)
        assert worker.process.started.done()
        assert worker.process.passed.done()
        assert not worker.process.responsive
        worker.process.set_state("ready")
        assert worker.process.state == "ended"
        worker.process.kill("twice")

    run(main)


def test_a_worker_that_has_ended_is_told_nothing_more() -> None:
    async def test(view: Looked) -> None:
        await view.worker.start()
        view.process.has_ended(-9)
        view.process.accept()
        view.process.retire("a reload")
        view.process.shut_down()
        view.look(4)
        assert view.process.state == "ended"
        assert await view.process.snapshot() is None

    in_view(test)


def test_a_worker_drains_when_it_is_told_to() -> None:
    async def test(view: Looked) -> None:
        await view.worker.start()
        view.process.retire("a reload")
        assert (await view.worker.hear(WorkerRetire)).why == "a reload"
        assert view.process.state == "draining"
        view.process.shut_down()
        await view.worker.hear(Shutdown)

    in_view(test)


def test_a_worker_whose_connection_cannot_be_read_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "pywatt.workers")

    async def test(view: Looked) -> None:
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
        view.process.pid = child.pid
        view.worker.write(b"x" * 100_000)
        assert await asyncio.wait_for(child.wait(), 20) == -signal.SIGKILL
        view.process.has_ended(-9)
        assert view.process.ending().startswith("its connection cannot be read")

    in_view(test)
    assert "worker 1:" in caplog.text


def test_a_connection_that_ends_in_order_kills_nobody() -> None:
    async def test(view: Looked) -> None:
        view.process.pid = None
        view.worker.leave()
        await until(lambda: not view.process.connection.open)
        assert view.process.ending() == "it still runs"

    in_view(test)


def test_a_snapshot_is_waited_for_a_moment_only() -> None:
    async def test(view: Looked) -> None:
        pulling = asyncio.create_task(view.process.snapshot())
        await view.worker.hear(GetSnapshot)
        assert await asyncio.wait_for(pulling, 5) is None

    in_view(test)


def test_its_status_says_what_ps_shows() -> None:
    async def test(view: Looked) -> None:
        view.worker.report["requests"] = 7
        await view.worker.start()
        status = view.process.status()
        assert status.pop("age") >= 0
        assert status == {
            "worker": 1, "generation": 1, "pid": None, "state": "ready", "healthy": False, "responsive": True,
            "connections": 0,
        }  # fmt: skip
        assert view.process.requests == 7

    in_view(test)
