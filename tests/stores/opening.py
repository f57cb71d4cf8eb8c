"""Databases and caches as a host opens them, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.stores.database import Database
from pywatt_host.stores.kinds import Surroundings, database_pool
from pywatt_host.stores.pool import Pool
from pywatt_host.stores.stats import Stats


def database_of(
    url: str, around: Surroundings, *, init: Path | None = None, rotates: bool = False, **options: Any
) -> Database:
    """The database of a manifest's entry, not open yet."""
    parsed = DatabaseOptions.model_validate({"url": url, **options})

    async def make(url: str) -> Pool:
        return await database_pool("databases.default", url, parsed, around)

    return Database(
        "default", make, acquire_timeout=parsed.pool.timeout, statement_timeout=parsed.statement_timeout,
        init=init, init_key=f"{around.module_id}:{init.name if init else ''}", rotates=rotates, stats=Stats(),
    )  # fmt: skip


@asynccontextmanager
async def opened(url: str, directory: Path, **options: Any) -> AsyncIterator[Database]:
    """A database that is connected."""
    database = database_of(url, Surroundings(directory, "tests"), **options)
    await database.open(url)
    try:
        await database.connect()
        yield database
    finally:
        await asyncio.wait_for(database.close(5), 20)
