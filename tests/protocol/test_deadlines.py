"""Deadlines: one timer, each thing told once, and soon."""

from __future__ import annotations

import asyncio

from pywatt_host.protocol.deadlines import Deadlines
from tests.hosting import PATIENCE, run


def test_what_is_overdue_is_told_once_and_what_was_taken_out_never() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[str] = []
        last = asyncio.Event()

        def expired(thing: str) -> None:
            told.append(thing)
            if thing == "last":
                last.set()

        deadlines: Deadlines[str] = Deadlines(expired)
        began = loop.time()
        deadlines.add("far", PATIENCE * 10, loop)
        deadlines.add("last", 0.12, loop)
        deadlines.add("soon", 0.005, loop)
        deadlines.add("done", 0.01, loop)
        deadlines.remove("done")
        deadlines.remove("never there")
        async with asyncio.timeout(PATIENCE):
            await last.wait()
        assert told == ["soon", "last"]
        assert loop.time() - began >= 0.12
        deadlines.remove("far")

    run(main)


def test_without_anything_to_watch_there_is_no_timer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        deadlines: Deadlines[int] = Deadlines(lambda thing: gone.set())
        deadlines.add(1, 0.001, loop)
        async with asyncio.timeout(PATIENCE):
            await gone.wait()
        await asyncio.sleep(0)
        assert deadlines.idle
        deadlines.add(2, 0.001, loop)
        assert not deadlines.idle
        gone.clear()
        async with asyncio.timeout(PATIENCE):
            await gone.wait()

    run(main)
