"""Time passes only while the process runs: a pause counts for a moment, and what arrived in it is read first."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from pywatt_host.observability.running_clock import LOOK_INTERVAL, RunningClock, RunningTimer, running_timeout
from tests.hosting import PATIENCE, run


class Wall:
    """A clock on the wall, which goes on whatever happens to the process."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_time_passes_between_ticks_and_across_them() -> None:
    wall = Wall()
    clock = RunningClock(1.0, wall)
    wall.now += 0.5
    assert clock.time() == 0.5
    wall.now += 1.0
    assert clock.tick()
    assert clock.time() == 1.5
    wall.now += 3.0  # a busy event loop is no pause
    assert clock.tick()
    assert clock.time() == 4.5


@pytest.mark.parametrize("pause", [4.0, 60.0, 86400.0])
def test_a_pause_counts_as_one_interval_and_nothing_is_decided_at_its_end(pause: float) -> None:
    wall = Wall()
    clock = RunningClock(1.0, wall)
    wall.now += pause
    assert clock.time() == 1.0
    assert not clock.tick()
    assert clock.time() == 1.0
    wall.now += 1.0
    assert clock.tick()
    assert clock.time() == 2.0


def test_an_event_loop_that_is_always_late_is_busy_and_not_paused() -> None:
    wall = Wall()
    clock = RunningClock(1.0, wall)
    decided = []
    for _ in range(6):
        wall.now += 10.0
        decided.append(clock.tick())
    assert decided == [False, True, True, True, True, True]
    assert clock.time() == 21.0


def test_a_tick_changes_nothing_that_was_not_already_so() -> None:
    wall = Wall()
    clock = RunningClock(1.0, wall)
    for step in (0.5, 3.9, 4.0, 0.1, 60.0, 70.0, 4.0, 0.0):
        wall.now += step
        before = clock.time()
        clock.tick()
        assert clock.time() == before


def test_after_a_time_in_which_nothing_was_measured_it_goes_on_from_where_it_was() -> None:
    wall = Wall()
    clock = RunningClock(1.0, wall)
    wall.now += 100.0
    clock.restart()
    assert clock.time() == 0.0
    wall.now += 1.0
    assert clock.tick()


def test_a_timer_calls_once_and_not_before_its_time() -> None:
    async def main() -> None:
        called = asyncio.Event()
        began = time.monotonic()
        RunningTimer(0.3, called.set)
        cancelled = RunningTimer(0.01, pytest.fail, "it was cancelled")
        cancelled.cancel()
        async with asyncio.timeout(PATIENCE):
            await called.wait()
        assert time.monotonic() - began >= 0.29

    run(main)


def test_a_timeout_ends_a_block_that_waits_and_leaves_one_alone_that_does_not() -> None:
    async def main() -> None:
        async with running_timeout(PATIENCE):
            pass
        with pytest.raises(TimeoutError):
            async with running_timeout(0.02):
                await asyncio.Event().wait()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    run(main)


def test_an_answer_that_arrives_while_the_event_loop_stands_still_is_in_time() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)

        def stand_still() -> None:
            theirs.send(b"answer\n")
            time.sleep(6 * LOOK_INTERVAL)

        async with running_timeout(2 * LOOK_INTERVAL):
            asyncio.get_running_loop().call_soon(stand_still)
            assert await reader.readline() == b"answer\n"
        writer.close()
        theirs.close()

    run(main)
