"""The limit in front of a database: when the pool may close."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.pool import ConnectionPool
from tests.hosting import run


class Backend:
    """Connects to nothing, and notes how many connections were in use when it was closed."""

    kind = "none"

    def __init__(self) -> None:
        self.used = 0
        self.used_at_close: int | None = None

    async def open(self) -> None: ...

    async def acquire(self) -> Any:
        self.used += 1
        await asyncio.sleep(0)
        return object()

    async def release(self, session: Any) -> None:
        self.used -= 1

    async def close(self) -> None:
        self.used_at_close = self.used


async def pool_of(size: int) -> tuple[ConnectionPool, Backend]:
    backend = Backend()
    pool = ConnectionPool("databases.default", "none://", backend, min_size=0, max_size=size)  # type: ignore[arg-type]
    await pool.open()
    return pool, backend


async def use(pool: ConnectionPool, go_on: asyncio.Event) -> None:
    session = await pool.acquire(5.0)
    await go_on.wait()
    await pool.release(session)


def test_who_waits_for_a_connection_has_it_before_the_pool_closes() -> None:
    async def main() -> None:
        pool, backend = await pool_of(2)
        first, then = asyncio.Event(), asyncio.Event()
        users = [asyncio.create_task(use(pool, first)) for _ in range(2)]
        users += [asyncio.create_task(use(pool, then)) for _ in range(2)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert (backend.used, pool.waiting) == (2, 2)
        closing = asyncio.create_task(pool.close(5.0))
        await asyncio.sleep(0)
        first.set()  # both are returned in one turn of the event loop
        for _ in range(10):
            await asyncio.sleep(0)
        assert (backend.used, backend.used_at_close) == (2, None)
        then.set()
        await asyncio.gather(closing, *users)
        assert backend.used_at_close == 0

    run(main)


def test_who_gives_up_waiting_does_not_hold_the_close() -> None:
    async def main() -> None:
        pool, backend = await pool_of(1)
        session = await pool.acquire(1.0)
        with pytest.raises(StoreError, match="no connection became free"):
            await pool.acquire(0.01)
        await pool.release(session)
        async with asyncio.timeout(1.0):
            await pool.close(5.0)
        assert backend.used_at_close == 0

    run(main)
