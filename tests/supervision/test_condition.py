"""Waiting on one event loop until something becomes true."""

from __future__ import annotations

import asyncio
from functools import partial

from pywatt_host.supervision.condition import LoopCondition
from tests.hosting import run


def test_a_waiter_returns_as_soon_as_its_predicate_is_true() -> None:
    async def main() -> None:
        condition, values = LoopCondition(), set[int]()
        await condition.wait_for(lambda: not values)  # true already
        waiters = [asyncio.create_task(condition.wait_for(partial(values.__contains__, each))) for each in (1, 2)]
        for value in (1, 2):
            await asyncio.sleep(0)
            values.add(value)
            condition.notify_all()
            await waiters[value - 1]
            assert all(waiter.done() for waiter in waiters) is (value == 2)

    run(main)
