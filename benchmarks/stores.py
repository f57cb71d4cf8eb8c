"""One row by its key, one value by its key: our databases and caches beside the drivers that they stand on, interleaved
in one process; servers are private ones from the extra `dev`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import aiosqlite
import asyncpg  # type: ignore[import-untyped]
import databases
from aiocache import Cache as OtherCache  # type: ignore[import-untyped]
from redis.asyncio import Redis

from pywatt_host.devservices.services import DevServices
from pywatt_host.manifest.model import Cache as CacheOptions
from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.stores.caches.cache import Cache
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.kinds import StoreContext, cache_backend, database_pool
from pywatt_host.stores.stats import Stats

SQL = "SELECT id, text FROM notes WHERE id = {}"

Call = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Row:
    """One way to ask, and the seconds that a call took in each round. `against` is the row that it is set against."""

    name: str
    call: Call
    against: str = ""
    times: list[float] = field(default_factory=list)


async def _rows(stack: AsyncExitStack, folder: Path) -> list[Row]:
    services = DevServices(folder, os.environ)
    stack.callback(services.close)
    rows = [
        *await _sqlite(stack, folder),
        *await _postgresql(stack, folder, await services.url("postgresql", "benchmarks")),
        *await _caches(stack, folder, await services.url("redis", "benchmarks")),
    ]
    for row in rows:
        await row.call()
    return rows


async def _sqlite(stack: AsyncExitStack, folder: Path) -> list[Row]:
    path = folder / "notes.db"
    raw = await stack.enter_async_context(aiosqlite.connect(path))
    await raw.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
    await raw.execute("INSERT INTO notes VALUES (1, 'milk')")
    await raw.commit()

    async def direct() -> Any:
        async with raw.execute(SQL.format("?"), (1,)) as cursor:
            return await cursor.fetchone()

    return [Row("SQLite: aiosqlite", direct), *await _ours(stack, folder, f"sqlite:///{path}", "SQLite: aiosqlite")]


async def _postgresql(stack: AsyncExitStack, folder: Path, url: str) -> list[Row]:
    raw = await asyncpg.connect(url)
    stack.push_async_callback(raw.close)
    await raw.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT)")
    await raw.execute("INSERT INTO notes VALUES (1, 'milk') ON CONFLICT DO NOTHING")
    pool = await stack.enter_async_context(asyncpg.create_pool(url, min_size=1, max_size=10))
    other = await stack.enter_async_context(databases.Database(url))
    base = "PostgreSQL: asyncpg, one connection"
    return [
        Row(base, lambda: raw.fetchrow(SQL.format("$1"), 1)),
        Row("PostgreSQL: asyncpg, its pool", lambda: pool.fetchrow(SQL.format("$1"), 1), base),
        Row("PostgreSQL: databases", lambda: other.fetch_one(SQL.format(":id"), {"id": 1}), base),
        *await _ours(stack, folder, url, base),
    ]


async def _ours(stack: AsyncExitStack, folder: Path, url: str, base: str) -> list[Row]:
    kind = base.partition(":")[0]
    database = await stack.enter_async_context(_opened(url, folder))
    held = await stack.enter_async_context(database.acquire())
    return [
        Row(f"{kind}: ours, one connection", lambda: held.fetchrow(SQL.format("$1"), 1), base),
        Row(f"{kind}: ours, app_state.db", lambda: database.fetchrow(SQL.format("$1"), 1), base),
    ]


@asynccontextmanager
async def _opened(url: str, folder: Path) -> AsyncIterator[Database]:
    options = DatabaseOptions.model_validate({"url": url})

    async def make(text: str) -> ConnectionPool:
        return await database_pool("databases.default", text, options, StoreContext(folder, "benchmarks"))

    database = Database("default", make, acquire_timeout=10, statement_timeout=30, stats=Stats())
    await database.open(url)
    await database.connect()
    try:
        yield database
    finally:
        await database.close(1)


async def _caches(stack: AsyncExitStack, folder: Path, url: str) -> list[Row]:
    raw = await stack.enter_async_context(Redis.from_url(url))
    await raw.set("key", b'"value"')
    other = OtherCache(OtherCache.MEMORY)
    await other.set("key", "value")
    rows = [Row("Redis: redis-py", lambda: raw.get("key"))]
    for name, text, base in (("Redis", url, "Redis: redis-py"), ("memory", "memory://", "memory: aiocache")):
        options = CacheOptions.model_validate({"url": text})
        cache = Cache("default", namespace="b", stats=Stats())
        cache.replace(await cache_backend("caches.default", text, options, StoreContext(folder, "benchmarks")))
        await cache.backend.open()
        stack.push_async_callback(cache.close)
        await cache.set("key", "value")
        if name == "memory":
            rows.append(Row(base, lambda: other.get("key")))
        rows.append(Row(f"{name}: ours, app_state.cache", lambda cache=cache: cache.get("key"), base))  # type: ignore[misc]
    return rows


async def _timed(call: Call, seconds: float) -> float:
    """Seconds that one call takes, one after the other."""
    calls, began = 0, perf_counter()
    while (spent := perf_counter() - began) < seconds:
        for _ in range(20):
            await call()
        calls += 20
    return spent / calls


def compare(seconds: float, rounds: int, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """All rows in turn, in an order that rotates."""

    async def main() -> list[Row]:
        async with AsyncExitStack() as stack:
            rows = await _rows(stack, folder)
            for number in range(rounds):
                say(f"stores: round {number + 1} of {rounds}")
                for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
                    row.times.append(await _timed(row.call, seconds / 4))
            return rows

    return asyncio.run(main())


def table(rows: list[Row]) -> str:
    by_name = {row.name: row for row in rows}
    lines = ["## stores: one row, or one value, by its key", "", "| way | us a call | x the driver's time |"]
    lines.append("| --- | --- | --- |")
    for row in rows:
        base = by_name.get(row.against)
        ratio = f"{median(a / b for a, b in zip(row.times, base.times, strict=True)):.2f}" if base else "1.00"
        lines.append(f"| {row.name} | {median(row.times) * 1e6:.1f} | {ratio} |")
    return "\n".join(lines) + "\n"


def data(rows: list[Row]) -> dict[str, Any]:
    return {"title": "stores", "rows": [{"name": row.name, "times": row.times} for row in rows]}
