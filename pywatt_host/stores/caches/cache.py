"""The cache that applications use, with the same methods and errors for every kind of cache."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any, Final, Literal, TypeAlias, TypeVar

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.context import current_request
from pywatt_host.observability.spans import UNRECORDED
from pywatt_host.stores.caches.backend import CacheBackend
from pywatt_host.stores.caches.encoding import decode, encode
from pywatt_host.stores.spans import NO_STORE_SPANS, StoreSpans
from pywatt_host.stores.stats import Stats

logger = logging.getLogger("pywatt.stores")

T = TypeVar("T")

_CLEAR_TIMEOUT = 60.0  # seconds that it may take to remove all keys of a namespace
_LEASE_TTL = 30.0  # seconds after which a computation counts as dead if its process does not renew the lease
_LEASE_POLL_INTERVAL = 0.05  # seconds between two checks whether another process has computed the value
_SKIP_AFTER_FAILURE = 0.5  # seconds for which a cache that failed is not used, with `on_error: miss`
_WARN_INTERVAL = 10.0  # seconds between two warnings about one cache


class _Absent:
    def __repr__(self) -> str:
        return "the cache's ttl"


ABSENT: Final = _Absent()
# Seconds or a timedelta; None means for ever; the default is the cache's ttl.
Expire: TypeAlias = float | timedelta | _Absent | None


class Cache:
    """`app_state.cache`, and each cache in `app_state.caches`.

    Keys are texts that are not empty. Values are bytes and everything that JSON can represent. Each caller gets a value
    of its own: changing it does not change the cached one. The host opens the cache before the application starts, and
    closes it after the last request.

    Methods raise StoreError. With `on_error: miss`, methods that read answer as if the cache were empty, and methods
    that write do nothing, if the cache fails with an error that is likely to pass.

    >>> import asyncio
    >>> from pathlib import Path
    >>> from pywatt_host.manifest.model import Cache as CacheOptions
    >>> from pywatt_host.stores.kinds import StoreContext
    >>> from pywatt_host.stores.service import CacheStore
    >>> async def main():
    ...     store = CacheStore("default", CacheOptions(url="memory://"), StoreContext(Path(), "notes"))
    ...     await store.try_once({})
    ...     cache = store.cache  # in an application: app_state.cache
    ...     await cache.set("note:1", {"text": "buy milk"}, expire=60)
    ...     print(await cache.get("note:1"), await cache.get("note:2", "none"))
    ...     print(await cache.increment("visits"), await cache.increment("visits", 10))
    ...     print(await cache.get_or_set("answer", lambda: 42, expire=60))
    ...     print(await cache.get_many(["answer", "note:2"]), await cache.delete("answer"))
    ...     try:
    ...         await cache.set("note:1", object())
    ...     except StoreError as error:
    ...         print(error.store, error.code)
    ...     await store.close()
    >>> asyncio.run(main())
    {'text': 'buy milk'} none
    1 11
    42
    {'answer': 42} 1
    caches.default arguments
    """

    def __init__(
        self,
        name: str,
        *,
        ttl: float | None = None,
        namespace: str = "",
        on_error: Literal["raise", "miss"] = "raise",
        timeout: float = 1.0,
        stats: Stats,
        spans: StoreSpans = NO_STORE_SPANS,
    ) -> None:
        self.store = f"caches.{name}"
        self.stats = stats
        self._spans = spans
        self._ttl = ttl
        self._prefix = f"{namespace}:" if namespace else ""
        self._misses = on_error == "miss"
        self._timeout = timeout
        self._backend: CacheBackend | None = None
        self._computing: dict[str, _Computation] = {}
        self._skip_until = 0.0  # time.monotonic
        self._last_warning = -math.inf  # time.monotonic

    # What applications use ------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or `default` if the key does not exist. A cached None is not the default."""
        value = await self._get(key, "get")
        return default if value is ABSENT else value

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those keys that exist."""
        wanted = list(dict.fromkeys(keys))
        full = [self._key(key) for key in wanted]
        if not full:
            return {}
        nothing: list[bytes | None] = [None] * len(full)
        found = await self._run("get_many", lambda backend: backend.get_many(full), nothing)
        values = {
            key: value
            for key, data in zip(wanted, found, strict=True)
            if (value := self._decoded(key, data)) is not ABSENT
        }
        self.stats.counts["hits"] += len(values)
        self.stats.counts["misses"] += len(wanted) - len(values)
        return values

    async def set(self, key: str, value: Any, expire: float | timedelta | _Absent | None = ABSENT) -> None:
        """Store a value. `expire` is in seconds or a timedelta; None means for ever; the default is the cache's `ttl`.
        Raises StoreError: `arguments` if JSON cannot represent the value."""
        full, data, ttl = self._key(key), self._encoded(key, value), self._expiry(expire)
        await self._run("set", lambda backend: backend.set(full, data, ttl), None)

    async def set_many(self, values: Mapping[str, Any], expire: float | timedelta | _Absent | None = ABSENT) -> None:
        """Store several values. `expire` is as in `set`."""
        pairs = {self._key(key): self._encoded(key, value) for key, value in values.items()}
        ttl = self._expiry(expire)
        if pairs:
            await self._run("set_many", lambda backend: backend.set_many(pairs, ttl), None)

    async def delete(self, *keys: str) -> int:
        """Delete keys, and return how many of them existed."""
        full = [self._key(key) for key in keys]
        return await self._run("delete", lambda backend: backend.delete(full), 0) if full else 0

    async def exists(self, key: str) -> bool:
        """Whether the key has a value, which may be None."""
        full = self._key(key)
        return await self._run("exists", lambda backend: backend.exists(full), False)

    async def increment(self, key: str, delta: int = 1, expire: float | timedelta | _Absent | None = ABSENT) -> int:
        """Add `delta` to an integer atomically, and return the sum.

        A key that does not exist counts as 0 and gets `expire`, as in `set`. Raises StoreError with `on_error: miss`
        too, because a number must not be invented.
        """
        full, ttl = self._key(key), self._expiry(expire)
        return await self._run("increment", lambda backend: backend.increment(full, delta, ttl), ABSENT)

    async def clear(self) -> None:
        """Delete all keys in the cache's namespace. This may take up to 60 seconds."""
        await self._run("clear", lambda backend: backend.clear(self._prefix), None, limit=_CLEAR_TIMEOUT)

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Any] | Callable[[], Awaitable[Any]] | Any,
        expire: float | timedelta | _Absent | None = ABSENT,
    ) -> Any:
        """Return the value. If the key does not exist, compute the value with `factory`, store it and return it.

        `factory` is a function, a coroutine function, or the value itself. `expire` is as in `set`. One caller computes
        the value, and the other callers wait for it: always those in this process, and those in other processes if the
        cache is on a server. An exception of the factory reaches every caller that waits in this process; it is not
        stored. A caller that is cancelled stops waiting; the computation is cancelled when its last caller is.
        """
        full, ttl = self._key(key), self._expiry(expire)
        value = await self._get(key, "get_or_set")
        if value is not ABSENT:
            return value
        computation = self._computing.get(full)
        if computation is None or computation.abandoned:
            work = self._compute_once(key, full, factory, ttl)
            computation = self._computing[full] = _Computation(self.store, work)
            computation.task.add_done_callback(partial(self._forget, full, computation))
        # Decoding gives each caller a value of its own.
        return self._decoded(key, await computation.wait())

    def __repr__(self) -> str:
        return f"<Cache {self.store} {self._backend.kind if self._backend is not None else 'not open'}>"

    def _forget(self, full: str, computation: _Computation, task: asyncio.Task[bytes]) -> None:
        if self._computing.get(full) is computation:
            del self._computing[full]

    # One caller computes --------------------------------------------------------------------------------------------

    async def _compute_once(self, key: str, full: str, factory: Any, ttl: float | None) -> bytes:
        """Compute and store the value, unless another process does; then wait for its value."""
        backend = self._backend
        if backend is None or not backend.shared:
            return await self._compute(key, full, factory, ttl)
        lease, token = f"{full}:lease", secrets.token_bytes(12)
        while True:
            mine = await self._run("lease", lambda backend: backend.add(lease, token, _LEASE_TTL), True)
            if mine:
                renewing = asyncio.get_running_loop().create_task(self._renew(lease, token))
                try:
                    # Another process may have stored the value after our check and before we got the lease.
                    there = await self._run("get_or_set", lambda backend: backend.get(full), None)
                    return there if there is not None else await self._compute(key, full, factory, ttl)
                finally:
                    renewing.cancel()
                    await self._run("lease", lambda backend: backend.release(lease, token), None, quiet=True)
            await asyncio.sleep(_LEASE_POLL_INTERVAL * (0.5 + random.random()))
            found = await self._run("get_or_set", lambda backend: backend.get(full), None)
            if found is not None:
                return found

    async def _renew(self, lease: str, token: bytes) -> None:
        """Renew the lease for as long as the computation runs."""
        while True:
            await asyncio.sleep(_LEASE_TTL / 3)
            await self._run("lease", lambda backend: backend.set(lease, token, _LEASE_TTL), None, quiet=True)

    async def _compute(self, key: str, full: str, factory: Any, ttl: float | None) -> bytes:
        value = factory() if callable(factory) else factory
        if inspect.isawaitable(value):
            value = await value
        data = self._encoded(key, value)
        await self._run("set", lambda backend: backend.set(full, data, ttl), None)
        return data

    # Every operation ------------------------------------------------------------------------------------------------

    async def _get(self, key: str, operation: str) -> Any:
        full = self._key(key)
        value = self._decoded(key, await self._run(operation, lambda backend: backend.get(full), None))
        self.stats.counts["misses" if value is ABSENT else "hits"] += 1
        return value

    async def _run(
        self,
        operation: str,
        run: Callable[[CacheBackend], Awaitable[T]],
        otherwise: T | _Absent,
        *,
        limit: float = 0.0,
        quiet: bool = False,
    ) -> T:
        """Run one operation on the backend.

        `otherwise` is the result if the cache fails and `on_error` is `miss`; with ABSENT the error is raised all the
        same. `limit` is in seconds; 0 means the cache's timeout. With `quiet`, a failure is neither counted nor logged.
        """
        backend = self._backend
        began, span = perf_counter(), self._spans.operation(operation)
        try:
            if backend is None:
                raise self._not_open()
            if self._misses and time.monotonic() < self._skip_until and otherwise is not ABSENT:
                raise StoreError(self.store, "unavailable", "the cache was not reachable a moment ago")
            async with asyncio.timeout(limit or self._timeout):
                return await run(backend)
        except TimeoutError:
            error = StoreError(self.store, "timeout", f"no answer within {limit or self._timeout:g}s (timeout)")
            self._spans.fail(span, error)
        except StoreError as raised:
            error = raised
            self._spans.fail(span, error)
        except BaseException as raised:
            span.fail(type(raised).__qualname__)
            raise
        finally:
            self.stats.observe(operation, perf_counter() - began)
            if span is not UNRECORDED:
                span.end()
        if quiet:
            assert not isinstance(otherwise, _Absent)
            return otherwise
        return self._failed(error, otherwise)

    def _failed(self, error: StoreError, otherwise: T | _Absent) -> T:
        self.stats.counts["errors"] += 1
        now = time.monotonic()
        if error.code in ("unavailable", "timeout") and now >= self._skip_until:
            self._skip_until = now + _SKIP_AFTER_FAILURE
        if not self._misses or isinstance(otherwise, _Absent) or not error.passing:
            request = current_request.get()
            if request is not None and error.passing:
                request.unavailable = error.store
            raise error
        if now - self._last_warning > _WARN_INTERVAL:
            self._last_warning = now
            logger.warning("%s (answered as a miss: on_error)", error, extra={"store": self.store})
        return otherwise

    def _not_open(self) -> StoreError:
        return StoreError(self.store, "unavailable", "the host has not opened it yet, or has closed it")

    def _key(self, key: str) -> str:
        if not isinstance(key, str) or not key:
            raise StoreError(self.store, "arguments", f"a key must be a str that is not empty, not {key!r:.60}")
        return self._prefix + key

    def _expiry(self, expire: float | timedelta | _Absent | None) -> float | None:
        if isinstance(expire, _Absent):
            return self._ttl
        seconds = expire.total_seconds() if isinstance(expire, timedelta) else expire
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise StoreError(self.store, "arguments", f"expire must be more than 0 seconds, not {expire!r:.60}")
        return max(float(seconds), 0.001)

    def _encoded(self, key: str, value: Any) -> bytes:
        try:
            return encode(value)
        except TypeError as error:
            message = f"the value for key {key!r:.60} cannot be stored as JSON: {error}"
            raise StoreError(self.store, "arguments", message) from None

    def _decoded(self, key: str, data: bytes | None) -> Any:
        if data is None:
            return ABSENT
        try:
            return decode(data)
        except ValueError:
            message = f"the value of key {key!r:.60} was not written by this cache"
            return self._failed(StoreError(self.store, "statement", message), ABSENT)

    # What the host uses ---------------------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        return self._backend is not None

    @property
    def backend(self) -> CacheBackend:
        assert self._backend is not None
        return self._backend

    def replace(self, backend: CacheBackend) -> CacheBackend | None:
        """Use `backend` from now on. Return the previous one, on which operations may still run."""
        old, self._backend = self._backend, backend
        self._skip_until = 0.0
        return old

    async def ping(self) -> None:
        """Raise StoreError if the cache does not answer."""
        if self._backend is None:
            raise self._not_open()
        await self._run("ping", lambda backend: backend.ping(), ABSENT)

    async def close(self) -> None:
        """Cancel all computations and close the backend."""
        for computation in tuple(self._computing.values()):
            computation.task.cancel()
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()


class _Computation:
    """A computation that several callers wait for. It is cancelled when the last of them is."""

    def __init__(self, store: str, work: Coroutine[Any, Any, bytes]) -> None:
        self._store = store
        self.task: asyncio.Task[bytes] = asyncio.get_running_loop().create_task(work)
        self.abandoned = False  # cancelled: it ends without a value
        self._waiting = 0  # number of callers

    async def wait(self) -> bytes:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.task.cancelled() and current is not None and not current.cancelling():
                message = "the computation was cancelled because the host stops"
                raise StoreError(self._store, "unavailable", message) from None
            if self._waiting == 1 and not self.task.done():
                self.abandoned = True
                self.task.cancel()
            raise
        finally:
            self._waiting -= 1
