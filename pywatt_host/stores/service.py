"""The databases and caches of a manifest or a workspace as one service: opened at the start, swapped when their secrets
rotate."""

from __future__ import annotations

import asyncio
import logging
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

from pywatt_host.exceptions import StoreError
from pywatt_host.manifest.model import Cache as CacheOptions
from pywatt_host.manifest.model import Database as DatabaseOptions
from pywatt_host.manifest.model.stores import ORCHESTRATOR, scheme_of
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family, Histogram
from pywatt_host.stores.caches.cache import Cache, CacheBackend
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.kinds import StoreContext, cache_backend, database_pool
from pywatt_host.stores.stats import BUCKETS, Stats

logger = logging.getLogger("pywatt.stores")

_FIRST, _LONGEST = 0.1, 1.0  # seconds between attempts to reach a store at the start
_OPTIONAL = 2.0  # seconds that the start waits for a store that is optional
_TOLD = 3.0  # seconds between lines that say what is waited for
_CLOSING = 3.0  # seconds that what is in use gets at the end: requests have been answered by then


class DatabaseStore:
    """One entry of `databases`."""

    def __init__(self, key: str, options: DatabaseOptions, around: StoreContext, *, rotates: bool) -> None:
        self.name = f"databases.{key}"
        self.optional = options.optional
        self.names = names_of(options.url)
        self.stats = Stats()
        self._options = options

        async def make(url: str) -> ConnectionPool:
            return await database_pool(self.name, url, options, around)

        self.database = Database(
            key,
            make,
            acquire_timeout=options.pool.timeout,
            statement_timeout=options.statement_timeout,
            init=around.directory / options.init if options.init is not None else None,
            init_key=f"{around.module_id}:{options.init}",
            rotates=rotates and bool(self.names),
            stats=self.stats,
        )

    async def open(self, url: str) -> None:
        await self.database.open(url)

    async def connect(self) -> None:
        await self.database.connect()

    @property
    def elsewhere(self) -> bool:
        return elsewhere(self._options.url)

    async def try_once(self, secret_values: Mapping[str, str]) -> None:
        """Connect, and change nothing. Raises StoreError."""
        await self.open(self.url(secret_values))
        assert self.database.pool is not None
        await self.database.pool.warm(self._options.pool.timeout)

    async def check(self) -> None:
        await self.database.check()

    async def prepare(self, secret_values: Mapping[str, str]) -> _NewPool:
        return _NewPool(
            self.database, await self.database.replacement(rendered(self.name, self._options.url, secret_values))
        )

    async def close(self) -> None:
        await self.database.close(_CLOSING)

    def url(self, secret_values: Mapping[str, str]) -> str:
        return rendered(self.name, self._options.url, secret_values)


class _NewPool:
    def __init__(self, database: Database, pool: ConnectionPool) -> None:
        self._database = database
        self._pool = pool

    def commit(self) -> None:
        self._database.swap(self._pool)

    def discard(self) -> None:
        self._database.drop(self._pool)


class CacheStore:
    """One entry of `caches`."""

    def __init__(self, key: str, options: CacheOptions, around: StoreContext) -> None:
        self.name = f"caches.{key}"
        self.optional = options.optional
        self.names = names_of(options.url)
        self.stats = Stats()
        self._options = options
        self._around = around
        self._closing: dict[asyncio.Task[None], CacheBackend] = {}
        namespace = around.module_id if options.namespace is None else options.namespace
        self.cache = Cache(
            key, ttl=options.ttl, namespace=namespace, on_error=options.on_error, timeout=options.timeout,
            stats=self.stats,
        )  # fmt: skip

    async def open(self, url: str) -> None:
        self.cache.replace(await cache_backend(self.name, url, self._options, self._around))

    async def connect(self) -> None:
        await self.cache.backend.open()

    @property
    def elsewhere(self) -> bool:
        return elsewhere(self._options.url)

    async def try_once(self, secret_values: Mapping[str, str]) -> None:
        """Connect, and change nothing. Raises StoreError."""
        await self.open(self.url(secret_values))
        await self.connect()

    async def check(self) -> None:
        await self.cache.ping()

    async def prepare(self, secret_values: Mapping[str, str]) -> _NewBackend:
        backend = await cache_backend(self.name, self.url(secret_values), self._options, self._around)
        try:
            await backend.open()
        except BaseException:
            await backend.close()
            raise
        return _NewBackend(self, backend)

    def drop(self, backend: CacheBackend) -> None:
        """Close it once what is under way on it has ended."""

        async def later() -> None:
            await asyncio.sleep(self._options.timeout)
            await backend.close()

        task = asyncio.get_running_loop().create_task(later(), name=f"drain {self.name}")
        self._closing[task] = backend
        task.add_done_callback(lambda done: self._closing.pop(done, None))

    async def close(self) -> None:
        closing = dict(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        await asyncio.gather(*(backend.close() for backend in closing.values()))
        await self.cache.close()

    def url(self, secret_values: Mapping[str, str]) -> str:
        return rendered(self.name, self._options.url, secret_values)


class _NewBackend:
    def __init__(self, store: CacheStore, backend: CacheBackend) -> None:
        self._store = store
        self._backend = backend

    def commit(self) -> None:
        old = self._store.cache.replace(self._backend)
        if old is not None:
            self._store.drop(old)

    def discard(self) -> None:
        self._store.drop(self._backend)


class Datastores:
    """All of them. Entering opens them beside each other, and waits for those that are not optional."""

    name = "stores"

    def __init__(
        self,
        databases: Mapping[str, DatabaseOptions],
        caches: Mapping[str, CacheOptions],
        secret_values: Callable[[], Mapping[str, str]],
        around: StoreContext,
        *,
        start_period: float,
        rotates: bool,
    ) -> None:
        """`texts` are the secrets; `start_period`: seconds that the start waits for a store."""
        self._texts = secret_values
        self._period = start_period
        self._databases = [DatabaseStore(key, options, around, rotates=rotates) for key, options in databases.items()]
        self._caches = [CacheStore(key, options, around) for key, options in caches.items()]
        self._all: list[DatabaseStore | CacheStore] = [*self._databases, *self._caches]
        self.databases = {store.name.partition(".")[2]: store.database for store in self._databases}
        self.caches = {store.name.partition(".")[2]: store.cache for store in self._caches}

    def dependants(self) -> list[DatabaseStore | CacheStore]:
        """What follows when a secret rotates."""
        return [store for store in self._all if store.names]

    def add_checks(self, checks: Checks) -> None:
        for store in self._all:
            checks.add(store.name, store.check, optional=store.optional)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            await self._start()
            yield
        finally:
            await asyncio.gather(*(store.close() for store in self._all))

    async def _start(self) -> None:
        starting = [asyncio.ensure_future(self._opened(store)) for store in self._all]
        try:
            await asyncio.gather(*starting)
        finally:
            for each in starting:
                each.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def _opened(self, store: DatabaseStore | CacheStore) -> None:
        loop = asyncio.get_running_loop()
        period = _OPTIONAL if store.optional else self._period
        deadline = loop.time() + period
        delay, told = _FIRST, 0.0
        error: StoreError | None = None
        await store.open(store.url(self._texts()))
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await store.connect()
                return
            except TimeoutError:
                error = error or StoreError(store.name, "unavailable", "it does not answer")
            except StoreError as raised:
                error = raised
            if not error.passing or loop.time() + delay > deadline:
                break
            if loop.time() - told > _TOLD:
                told = loop.time()
                logger.warning("waiting for %s", error, extra={"store": store.name})
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST)
        if store.optional and error.passing:
            logger.warning("starting without %s", error, extra={"store": store.name})
            return
        waited = f" (waited {period:g}s: health.start_period)" if error.passing else ""
        raise StoreError(store.name, error.code, f"{error.message}{waited}") from error.__cause__

    # What is counted ------------------------------------------------------------------------------------------------

    def families(self) -> Iterator[Family | Histogram]:
        if self._databases:
            yield from self._database_families()
        if self._caches:
            yield from self._cache_families()

    def _database_families(self) -> Iterator[Family | Histogram]:
        states: dict[tuple[str, ...], float] = {}
        most: dict[tuple[str, ...], float] = {}
        waiting: dict[tuple[str, ...], float] = {}
        errors: dict[tuple[str, ...], float] = {}
        for store in self._databases:
            key, pool = store.name.partition(".")[2], store.database.pool
            if pool is not None:
                states[key, "used"] = pool.in_use
                states[key, "idle"] = pool.backend.idle
                most[key,] = pool.most
                waiting[key,] = pool.waiting
            errors |= {(key, code): float(count) for code, count in store.stats.counts.items()}
        names = ("database",)
        yield Family("gauge", "pywatt_database_connections", "Open connections.", (*names, "state"), states)
        yield Family("gauge", "pywatt_database_connections_max", "Most connections that may be open.", names, most)
        doc = "Tasks that wait for a connection."
        yield Family("gauge", "pywatt_database_connections_waiting", doc, names, waiting)
        doc = "Statements and acquisitions that failed, by the code of the error."
        yield Family("counter", "pywatt_database_errors", doc, (*names, "code"), errors)
        doc = "Duration of operations on a database, without the wait for a connection."
        name = "pywatt_database_operation_duration_seconds"
        yield Histogram(name, doc, (*names, "operation"), BUCKETS, _durations(self._databases))

    def _cache_families(self) -> Iterator[Family | Histogram]:
        names = ("cache",)
        keys = {store.name.partition(".")[2]: store for store in self._caches}
        for count, doc in (("hits", "Keys that were there."), ("misses", "Keys that were not there."),
                           ("errors", "Operations that failed.")):  # fmt: skip
            values: dict[tuple[str, ...], float] = {(key,): store.stats.counts[count] for key, store in keys.items()}
            yield Family("counter", f"pywatt_cache_{count}", doc, names, values)
        sizes: dict[tuple[str, ...], float] = {}
        for key, store in keys.items():
            if store.cache.opened:
                sizes |= {(key, name): value for name, value in store.cache.backend.sizes().items()}
        doc = "What a cache has: entries and octets in memory, connections to a server."
        yield Family("gauge", "pywatt_cache_size", doc, (*names, "of"), sizes)
        doc = "Duration of operations on a cache."
        name = "pywatt_cache_operation_duration_seconds"
        yield Histogram(name, doc, (*names, "operation"), BUCKETS, _durations(self._caches))


def _durations(stores: list[DatabaseStore] | list[CacheStore]) -> dict[tuple[str, ...], list[float]]:
    return {
        (store.name.partition(".")[2], operation): list(cell)
        for store in stores
        for operation, cell in store.stats.durations.items()
    }


def elsewhere(url: str | SecretTemplate) -> bool:
    """Whether only the orchestrator, or `dev` and `up`, can say where it is."""
    scheme = scheme_of(url) or ""
    return scheme == ORCHESTRATOR or scheme.endswith("+dev")


def names_of(url: str | SecretTemplate) -> frozenset[str]:
    return frozenset(url.names) if isinstance(url, SecretTemplate) else frozenset()


def rendered(store: str, url: str | SecretTemplate, secret_values: Mapping[str, str]) -> str:
    """The URL with its secrets. Raises StoreError (`arguments`)."""
    if isinstance(url, str):
        return url
    try:
        return url.render(secret_values)
    except KeyError as error:
        raise StoreError(store, "arguments", f"url: the secret {error.args[0]} is not there") from None
