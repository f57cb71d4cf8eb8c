"""Heartbeats that are missing."""

from __future__ import annotations

import asyncio

import pytest

from pywatt_host.observability.running_clock import RunningClock
from pywatt_host.peers.heartbeats import HeartbeatWatch
from tests.hosting import PATIENCE, run


def test_the_orchestrator_is_lost_once_enough_heartbeats_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywatt_host.peers.heartbeats._MIN_INTERVAL", 0.01)
    lost: list[str] = []

    async def main() -> None:
        told = asyncio.Event()

        def tell(why: str) -> None:
            lost.append(why)
            told.set()

        watch = HeartbeatWatch(3, tell)
        watching = asyncio.ensure_future(watch.watch())
        for _ in range(2):
            watch.beat()
        async with asyncio.timeout(PATIENCE):
            await told.wait()
        watching.cancel()

    run(main)
    assert lost == ["no heartbeat for 3 intervals of 0.01s"]


def test_without_a_second_heartbeat_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywatt_host.peers.heartbeats._MIN_INTERVAL", 0.001)

    async def main() -> None:
        lost: list[str] = []
        watch = HeartbeatWatch(1, lost.append)
        watch.beat()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await watch.watch()
        assert lost == []

    run(main)


class Wall:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class SteppedClock(RunningClock):
    """Looks when the test says so."""

    def __init__(self, wall: Wall) -> None:
        super().__init__(0.25, wall)
        self._turn: asyncio.Event = asyncio.Event()

    async def looked(self) -> None:
        self._turn.set()
        for _ in range(3):
            await asyncio.sleep(0)

    async def next_look(self) -> None:
        await self._turn.wait()
        self._turn.clear()
        self.tick()


async def looked(watch: HeartbeatWatch, wall: Wall, clock: SteppedClock, until: float) -> None:
    """Let time pass in steps of one look each."""
    watching = asyncio.ensure_future(watch.watch())
    await asyncio.sleep(0)
    while wall.now < until:
        wall.now += clock.interval
        await clock.looked()
    watching.cancel()


@pytest.mark.parametrize(("gap", "missed"), [(1.0, 3), (5.0, 3), (5.0, 1), (0.2, 2), (30.0, 10)])
def test_silence_is_noticed_after_the_missing_heartbeats_and_within_a_second_more(gap: float, missed: int) -> None:
    async def main() -> None:
        wall, lost = Wall(), list[float]()
        clock = SteppedClock(wall)
        watch = HeartbeatWatch(missed, lambda why: lost.append(wall.now), clock)
        for _ in range(4):
            for _ in range(round(gap / 0.2)):
                wall.now += 0.2
                clock.tick()
            watch.beat()
        last, promised = wall.now, max(gap, 1.0) * missed
        await looked(watch, wall, clock, last + promised + 2)
        assert len(lost) == 1
        assert promised < lost[0] - last < promised + 1

    run(main)


def test_heartbeats_that_have_piled_up_do_not_make_the_next_ones_late() -> None:
    """Ten at once after a pause, then one each five seconds as before."""

    async def main() -> None:
        wall, lost = Wall(), list[str]()
        clock = SteppedClock(wall)
        watch = HeartbeatWatch(3, lost.append, clock)
        for _ in range(3):
            for _ in range(20):
                wall.now += 0.25
                clock.tick()
            watch.beat()
        wall.now += 50
        for _ in range(10):
            watch.beat()
        await looked(watch, wall, clock, wall.now + 14)
        assert lost == []

    run(main)
