"""Heartbeats that are missing."""

from __future__ import annotations

import asyncio

import pytest

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
