"""The databases and caches of a manifest or a workspace, as one service.

It opens them when the host starts, and opens them again with a new URL when their secrets rotate.
"""

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
from pywatt_host.observability.spans import NO_TRACER, AnyTracer
from pywatt_host.stores.caches.backend import CacheBackend
from pywatt_host.stores.caches.cache import Cache
from pywatt_host.stores.databases.database import Database
from pywatt_host.stores.databases.pool import ConnectionPool
from pywatt_host.stores.kinds import StoreContext, cache_backend, database_pool
from pywatt_host.stores.spans import spans_of
from pywatt_host.stores.stats import BUCKETS, Stats

logger = logging.getLogger("pywatt.stores")

_RETRY_DELAY, _MAX_RETRY_DELAY = 0.1, 1.0  # seconds between attempts to connect at the start; doubled each time
_OPTIONAL_WAIT = 2.0  # seconds that the start waits for an optional store
_LOG_INTERVAL = 3.0  # seconds between two log lines that say which store the start waits for
_CLOSE_TIMEOUT = 3.0  # seconds that connections in use get at the end; all requests have been answered by then


class DatabaseStore:
    """One entry of `databases`."""

    def __init__(
        self,
        key: str,
        options: DatabaseOptions,
        context: StoreContext,
        *,
        rotates: bool,
        tracer: AnyTracer = NO_TRACER,
    ) -> None:
        self.name = f"databases.{key}"
        self.optional = options.optional
        self.names = names_of(options.url)
        self.stats = Stats()
        self._options = options
        spans = spans_of(self.name, tracer)

        async def make(url: str) -> ConnectionPool:
            pool = await database_pool(self.name, url, options, context)
            spans.towards(url)
            return pool

        self.database = Database(
            key,
            make,
            acquire_timeout=options.pool.timeout,
            statement_timeout=options.statement_timeout,
            init=context.directory / options.init if options.init is not None else None,
            init_key=f"{context.module_id}:{options.init}",
            rotates=rotates and bool(self.names),
            stats=self.stats,
            spans=spans,
        )

    async def open(self, url: str) -> None:
        await self.database.open(url)

    async def connect(self) -> None:
        await self.database.connect()

    @property
    def elsewhere(self) -> bool:
        return elsewhere(self._options.url)

    async def try_once(self, secret_values: Mapping[str, str]) -> None:
        """Connect, without changing anything on the server. Raises StoreError."""
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
        await self.database.close(_CLOSE_TIMEOUT)

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

    def __init__(
        self, key: str, options: CacheOptions, context: StoreContext, *, tracer: AnyTracer = NO_TRACER
    ) -> None:
        self.name = f"caches.{key}"
        self.optional = options.optional
        self.names = names_of(options.url)
        self.stats = Stats()
        self._options = options
        self._context = context
        self._closing: dict[asyncio.Task[None], CacheBackend] = {}
        self._spans = spans_of(self.name, tracer)
        namespace = context.module_id if options.namespace is None else options.namespace
        self.cache = Cache(
            key, ttl=options.ttl, namespace=namespace, on_error=options.on_error, timeout=options.timeout,
            stats=self.stats, spans=self._spans,
        )  # fmt: skip

    async def open(self, url: str) -> None:
        self.cache.replace(await self._make(url))

    async def _make(self, url: str) -> CacheBackend:
        backend = await cache_backend(self.name, url, self._options, self._context)
        self._spans.towards(url)
        return backend

    async def connect(self) -> None:
        await self.cache.backend.open()

    @property
    def elsewhere(self) -> bool:
        return elsewhere(self._options.url)

    async def try_once(self, secret_values: Mapping[str, str]) -> None:
        """Connect, without changing anything on the server. Raises StoreError."""
        await self.open(self.url(secret_values))
        await self.connect()

    async def check(self) -> None:
        await self.cache.ping()

    async def prepare(self, secret_values: Mapping[str, str]) -> _NewBackend:
        backend = await self._make(self.url(secret_values))
        try:
            await backend.open()
        except BaseException:
            await backend.close()
            raise
        return _NewBackend(self, backend)

    def drop(self, backend: CacheBackend) -> None:
        """Close the backend in the background, after the operations that still run on it have ended."""

        async def close_later() -> None:
            await asyncio.sleep(self._options.timeout)
            await backend.close()

        task = asyncio.get_running_loop().create_task(close_later(), name=f"drain {self.name}")
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
    """The service with all databases and caches.

    When it starts, it opens all of them at the same time and waits for those that are not optional.
    """

    name = "stores"

    def __init__(
        self,
        databases: Mapping[str, DatabaseOptions],
        caches: Mapping[str, CacheOptions],
        secret_values: Callable[[], Mapping[str, str]],
        context: StoreContext,
        *,
        start_period: float,
        rotates: bool,
        tracer: AnyTracer = NO_TRACER,
    ) -> None:
        """`secret_values` returns the texts of the secrets. `start_period` is how long the start waits for a store, in
        seconds. `rotates` says whether secrets may rotate. `tracer` makes the spans of calls."""
        self._secret_values = secret_values
        self._period = start_period
        self._databases = [
            DatabaseStore(key, options, context, rotates=rotates, tracer=tracer) for key, options in databases.items()
        ]
        self._caches = [CacheStore(key, options, context, tracer=tracer) for key, options in caches.items()]
        self._all: list[DatabaseStore | CacheStore] = [*self._databases, *self._caches]
        self.databases = {store.name.partition(".")[2]: store.database for store in self._databases}
        self.caches = {store.name.partition(".")[2]: store.cache for store in self._caches}

    def dependants(self) -> list[DatabaseStore | CacheStore]:
        """Return the stores whose URL contains a secret."""
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
        starting = [asyncio.ensure_future(self._open(store)) for store in self._all]
        try:
            await asyncio.gather(*starting)
        finally:
            for each in starting:
                each.cancel()
            await asyncio.gather(*starting, return_exceptions=True)

    async def _open(self, store: DatabaseStore | CacheStore) -> None:
        """Connect, and retry until the start period is over. Raises StoreError, for an optional store only if the error
        is not likely to pass."""
        loop = asyncio.get_running_loop()
        period = _OPTIONAL_WAIT if store.optional else self._period
        deadline = loop.time() + period
        delay, last_logged = _RETRY_DELAY, 0.0
        error: StoreError | None = None
        await store.open(store.url(self._secret_values()))
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await store.connect()
                return
            except TimeoutError:
                error = error or StoreError(store.name, "unavailable", "the server does not answer")
            except StoreError as raised:
                error = raised
            if not error.passing or loop.time() + delay > deadline:
                break
            if loop.time() - last_logged > _LOG_INTERVAL:
                last_logged = loop.time()
                logger.warning("waiting for %s", error, extra={"store": store.name})
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_RETRY_DELAY)
        if store.optional and error.passing:
            logger.warning("starting without %s", error, extra={"store": store.name})
            return
        waited = f" (waited {period:g}s: health.start_period)" if error.passing else ""
        raise StoreError(store.name, error.code, f"{error.message}{waited}") from error.__cause__

    # Metrics --------------------------------------------------------------------------------------------------------

    def families(self) -> Iterator[Family | Histogram]:
        if self._databases:
            yield from self._database_families()
        if self._caches:
            yield from self._cache_families()

    def _database_families(self) -> Iterator[Family | Histogram]:
        states: dict[tuple[str, ...], float] = {}
        max_sizes: dict[tuple[str, ...], float] = {}
        waiting: dict[tuple[str, ...], float] = {}
        errors: dict[tuple[str, ...], float] = {}
        for store in self._databases:
            key, pool = store.name.partition(".")[2], store.database.pool
            if pool is not None:
                states[key, "used"] = pool.in_use
                states[key, "idle"] = pool.backend.idle
                max_sizes[key,] = pool.max_size
                waiting[key,] = pool.waiting
            errors |= {(key, code): float(count) for code, count in store.stats.counts.items()}
        names = ("database",)
        yield Family("gauge", "pywatt_database_connections", "Open connections.", (*names, "state"), states)
        doc = "Maximum number of open connections."
        yield Family("gauge", "pywatt_database_connections_max", doc, names, max_sizes)
        doc = "Tasks that wait for a connection."
        yield Family("gauge", "pywatt_database_connections_waiting", doc, names, waiting)
        doc = "Statements and acquisitions that failed, by error code."
        yield Family("counter", "pywatt_database_errors", doc, (*names, "code"), errors)
        doc = "Duration of operations on a database, without the wait for a connection."
        name = "pywatt_database_operation_duration_seconds"
        yield Histogram(name, doc, (*names, "operation"), BUCKETS, _durations(self._databases))

    def _cache_families(self) -> Iterator[Family | Histogram]:
        names = ("cache",)
        keys = {store.name.partition(".")[2]: store for store in self._caches}
        for count, doc in (("hits", "Keys that were found."), ("misses", "Keys that were not found."),
                           ("errors", "Operations that failed.")):  # fmt: skip
            values: dict[tuple[str, ...], float] = {(key,): store.stats.counts[count] for key, store in keys.items()}
            yield Family("counter", f"pywatt_cache_{count}", doc, names, values)
        sizes: dict[tuple[str, ...], float] = {}
        for key, store in keys.items():
            if store.cache.opened:
                sizes |= {(key, name): value for name, value in store.cache.backend.sizes().items()}
        doc = "Size of a cache: entries and bytes in memory, connections to a server."
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
    """Whether only the orchestrator, or the commands `dev` and `up`, know where the store is."""
    scheme = scheme_of(url) or ""
    return scheme == ORCHESTRATOR or scheme.endswith("+dev")


def names_of(url: str | SecretTemplate) -> frozenset[str]:
    return frozenset(url.names) if isinstance(url, SecretTemplate) else frozenset()


def rendered(store: str, url: str | SecretTemplate, secret_values: Mapping[str, str]) -> str:
    """Return the URL with its secrets filled in. Raises StoreError (`arguments`)."""
    if isinstance(url, str):
        return url
    try:
        return url.render(secret_values)
    except KeyError as error:
        message = f"url: secret {error.args[0]} has no value; set it, or add a source under secrets.sources"
        raise StoreError(store, "arguments", message) from None
