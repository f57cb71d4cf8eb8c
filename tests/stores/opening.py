"""Databases and caches as a host opens them, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from pywatt_host.exceptions import MessagingError, StoreError
from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.stores.caches.cache import Cache
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.kinds import StoreContext, database_pool
from pywatt_host.stores.proxy.serving import ServedCache, ServedDatabase
from pywatt_host.stores.proxy.wire import error_text
from pywatt_host.stores.stats import Stats


def database_of(
    url: str, around: StoreContext, *, init: Path | None = None, rotates: bool = False, **options: Any
) -> Database:
    """The database of a manifest's entry, not open yet."""
    parsed = DatabaseOptions.model_validate({"url": url, **options})

    async def make(url: str) -> ConnectionPool:
        return await database_pool("databases.default", url, parsed, around)

    return Database(
        "default", make, acquire_timeout=parsed.pool.timeout, statement_timeout=parsed.statement_timeout,
        init=init, init_key=f"{around.module_id}:{init.name if init else ''}", rotates=rotates, stats=Stats(),
    )  # fmt: skip


@asynccontextmanager
async def opened(url: str, directory: Path, remote: Wired | None = None, **options: Any) -> AsyncIterator[Database]:
    """A database that is connected; one whose URL begins with `proxied:` is behind an orchestrator."""
    if url.startswith("proxied:"):
        async with (
            opened(url.removeprefix("proxied:"), directory, statement_timeout="20s") as far,
            opened("orchestrator:shared", directory, remote=Wired(far), **options) as near,
        ):
            yield near
        return
    database = database_of(url, StoreContext(directory, "tests", remote), **options)
    await database.open(url)
    try:
        await database.connect()
        yield database
    finally:
        await asyncio.wait_for(database.close(5), 20)


class Wired:
    """An orchestrator without a wire: its database and cache, by JSON there and back."""

    def __init__(self, database: Database | None = None, cache: Cache | None = None) -> None:
        self.served: dict[str, ServedDatabase | ServedCache] = {}
        self._database = database
        self._cache = cache

    async def connect(self, service_type: str, config: Any, timeout: float) -> str:
        number = str(len(self.served))
        if service_type == "Database":
            assert self._database is not None
            self.served[number] = ServedDatabase(self._database)
        else:
            cache = self._cache
            assert cache is not None
            self.served[number] = ServedCache("caches.shared", lambda: cache.backend)
        return number

    async def operate(self, connection: str, service_type: str, operation: str, params: Any, timeout: float) -> Any:
        served = self.served.get(connection)
        if served is None:
            raise MessagingError("refused", "connection: there is no such connection")
        if operation == "close":
            await self.served.pop(connection).close()
            return None
        try:
            return orjson.loads(orjson.dumps(await served.run(operation, orjson.loads(orjson.dumps(params)))))
        except StoreError as error:
            raise MessagingError("refused", error_text(error)) from None
