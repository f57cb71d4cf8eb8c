"""Caches, as applications see them: the same calls and errors on every kind."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from time import perf_counter
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

import orjson

from pywatt_host.exceptions import StoreError
from pywatt_host.observability.context import current_request
from pywatt_host.stores.stats import Stats

logger = logging.getLogger("pywatt.stores")

T = TypeVar("T")

_OCTETS = b"\x00"  # before octets; no JSON text begins with it
_CLEARING = 60.0  # seconds that it may take to remove all of a namespace
_LEASE = 30.0  # seconds that a computation in another process may take without a sign of life
_LOOK = 0.05  # seconds between looks for what another process computes
_SHUNNED = 0.5  # seconds that a cache which cannot be reached is not asked, with `on_error: miss`
_TOLD = 10.0  # seconds between two warnings of one cache
_PASSTHROUGH = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS


class _Absent:
    def __repr__(self) -> str:
        return "the cache's ttl"


ABSENT: Final = _Absent()
# Seconds, or None for ever; left out: the cache's ttl.
Expire: TypeAlias = float | timedelta | _Absent | None


class CacheBackend(Protocol):
    """Octets by key on one server, or in memory. `shared`: other processes see them. Times to live are in seconds, None
    is for ever. Every method raises StoreError, and nothing else of a driver's; cancelled, it leaves nothing behind."""

    kind: str
    shared: bool

    async def open(self) -> None:
        """Connect. Raises StoreError where that fails; may be called again then."""

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    async def get(self, key: str) -> bytes | None: ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set(self, key: str, value: bytes, ttl: float | None) -> None: ...

    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None: ...

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        """Only where nothing is there."""

    async def delete(self, keys: Sequence[str]) -> int: ...

    async def exists(self, key: str) -> bool: ...

    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        """Atomic; absent counts as 0, and only then `ttl` is set."""

    async def release(self, key: str, value: bytes) -> None:
        """Delete it where it still has this value."""

    async def clear(self, prefix: str) -> None:
        """Everything whose key begins so."""

    def sizes(self) -> Mapping[str, float]:
        """For gauges."""


class Cache:
    """`app_state.cache`, and each of `app_state.caches`. Values are what JSON can hold, and octets; whoever gets one
    may change it without changing what is cached. Keys are texts.

    Methods raise StoreError; with `on_error: miss` those that read answer as if nothing were there, and those that
    write do nothing.
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
    ) -> None:
        self.store = f"caches.{name}"
        self.stats = stats
        self._ttl = ttl
        self._prefix = f"{namespace}:" if namespace else ""
        self._misses = on_error == "miss"
        self._timeout = timeout
        self._backend: CacheBackend | None = None
        self._computing: dict[str, _Computation] = {}
        self._shunned_until = 0.0
        self._told = -math.inf

    # What applications use ------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any = None) -> Any:
        """The value; `default` where there is none."""
        value = await self._get(key, "get")
        return default if value is ABSENT else value

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are there."""
        asked = list(dict.fromkeys(keys))
        full = [self._key(key) for key in asked]
        if not full:
            return {}
        nothing: list[bytes | None] = [None] * len(full)
        found = await self._run("get_many", lambda backend: backend.get_many(full), nothing)
        values = {
            key: value
            for key, octets in zip(asked, found, strict=True)
            if (value := self._decoded(key, octets)) is not ABSENT
        }
        self.stats.counts["hits"] += len(values)
        self.stats.counts["misses"] += len(asked) - len(values)
        return values

    async def set(self, key: str, value: Any, expire: float | timedelta | _Absent | None = ABSENT) -> None:
        """Keep a value. `expire` in seconds, None for ever; left out, the cache's `ttl`."""
        full, octets, ttl = self._key(key), self._encoded(key, value), self._expiry(expire)
        await self._run("set", lambda backend: backend.set(full, octets, ttl), None)

    async def set_many(self, values: Mapping[str, Any], expire: float | timedelta | _Absent | None = ABSENT) -> None:
        """Keep several; `expire` as in `set`."""
        pairs = {self._key(key): self._encoded(key, value) for key, value in values.items()}
        ttl = self._expiry(expire)
        if pairs:
            await self._run("set_many", lambda backend: backend.set_many(pairs, ttl), None)

    async def delete(self, *keys: str) -> int:
        """How many of them were there."""
        full = [self._key(key) for key in keys]
        return await self._run("delete", lambda backend: backend.delete(full), 0) if full else 0

    async def exists(self, key: str) -> bool:
        """Whether there is a value, None included."""
        full = self._key(key)
        return await self._run("exists", lambda backend: backend.exists(full), False)

    async def increment(self, key: str, delta: int = 1, expire: float | timedelta | _Absent | None = ABSENT) -> int:
        """Add to a whole number, atomically; what is not there counts as 0, and gets `expire`. Gives the sum. Raises
        StoreError with `on_error: miss` too: a number must not be made up."""
        full, ttl = self._key(key), self._expiry(expire)
        return await self._run("increment", lambda backend: backend.increment(full, delta, ttl), ABSENT)

    async def clear(self) -> None:
        """Remove everything of this cache's namespace."""
        await self._run("clear", lambda backend: backend.clear(self._prefix), None, limit=_CLEARING)

    async def get_or_set(
        self,
        key: str,
        factory: Callable[[], Any] | Callable[[], Awaitable[Any]] | Any,
        expire: float | timedelta | _Absent | None = ABSENT,
    ) -> Any:
        """The value; where there is none, what `factory` (a function, sync or async, or a value) gives, kept.

        One caller computes, the others wait for it: those of this process always, those of others where the backend is
        shared. What the factory raises reaches all who wait in this process, and is not kept. Whoever is cancelled
        leaves; the computation ends when nobody waits any more.
        """
        full, ttl = self._key(key), self._expiry(expire)
        value = await self._get(key, "get_or_set")
        if value is not ABSENT:
            return value
        computation = self._computing.get(full)
        if computation is None or computation.abandoned:
            computation = self._computing[full] = _Computation(self.store, self._computed(key, full, factory, ttl))
            computation.task.add_done_callback(partial(self._over, full, computation))
        # Each has a value of its own.
        return self._decoded(key, await computation.wait())

    def __repr__(self) -> str:
        return f"<Cache {self.store} {self._backend.kind if self._backend is not None else 'not open'}>"

    def _over(self, full: str, computation: _Computation, task: asyncio.Task[bytes]) -> None:
        if self._computing.get(full) is computation:
            del self._computing[full]

    # One computes ---------------------------------------------------------------------------------------------------

    async def _computed(self, key: str, full: str, factory: Any, ttl: float | None) -> bytes:
        backend = self._backend
        if backend is None or not backend.shared:
            return await self._made(key, full, factory, ttl)
        lease, token = f"{full}:lease", secrets.token_bytes(12)
        while True:
            mine = await self._run("lease", lambda backend: backend.add(lease, token, _LEASE), True)
            if mine:
                keeping = asyncio.get_running_loop().create_task(self._keep(lease, token))
                try:
                    # Between our look and the lease another may have been ready.
                    there = await self._run("get_or_set", lambda backend: backend.get(full), None)
                    return there if there is not None else await self._made(key, full, factory, ttl)
                finally:
                    keeping.cancel()
                    await self._run("lease", lambda backend: backend.release(lease, token), None, quiet=True)
            await asyncio.sleep(_LOOK * (0.5 + random.random()))
            found = await self._run("get_or_set", lambda backend: backend.get(full), None)
            if found is not None:
                return found

    async def _keep(self, lease: str, token: bytes) -> None:
        """A lease lives as long as its computation."""
        while True:
            await asyncio.sleep(_LEASE / 3)
            await self._run("lease", lambda backend: backend.set(lease, token, _LEASE), None, quiet=True)

    async def _made(self, key: str, full: str, factory: Any, ttl: float | None) -> bytes:
        value = factory() if callable(factory) else factory
        if inspect.isawaitable(value):
            value = await value
        octets = self._encoded(key, value)
        await self._run("set", lambda backend: backend.set(full, octets, ttl), None)
        return octets

    # Every operation ------------------------------------------------------------------------------------------------

    async def _get(self, key: str, operation: str) -> Any:
        full = self._key(key)
        octets = await self._run(operation, lambda backend: backend.get(full), None)
        value = self._decoded(key, octets)
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
        """`otherwise` is the answer where the cache fails and `on_error` is miss; ABSENT: it raises all the same."""
        backend = self._backend
        began = perf_counter()
        try:
            if backend is None:
                raise StoreError(self.store, "unavailable", "the host has not started it, or has stopped")
            if self._misses and time.monotonic() < self._shunned_until and otherwise is not ABSENT:
                raise StoreError(self.store, "unavailable", "it could not be reached just now")
            async with asyncio.timeout(limit or self._timeout):
                return await run(backend)
        except TimeoutError:
            error = StoreError(self.store, "timeout", f"no answer within {limit or self._timeout:g}s (timeout)")
        except StoreError as raised:
            error = raised
        finally:
            self.stats.observe(operation, perf_counter() - began)
        if quiet:
            assert not isinstance(otherwise, _Absent)
            return otherwise
        return self._failed(error, otherwise)

    def _failed(self, error: StoreError, otherwise: T | _Absent) -> T:
        self.stats.counts["errors"] += 1
        now = time.monotonic()
        if error.code in ("unavailable", "timeout") and now >= self._shunned_until:
            self._shunned_until = now + _SHUNNED
        if not self._misses or isinstance(otherwise, _Absent) or not error.passing:
            request = current_request.get()
            if request is not None and error.passing:
                request.unavailable = error.store
            raise error
        if now - self._told > _TOLD:
            self._told = now
            logger.warning("%s (answered as a miss: on_error)", error, extra={"store": self.store})
        return otherwise

    def _key(self, key: str) -> str:
        if not isinstance(key, str) or not key:
            raise StoreError(self.store, "arguments", f"a key is a text that is not empty, not {key!r:.60}")
        return self._prefix + key

    def _expiry(self, expire: float | timedelta | _Absent | None) -> float | None:
        if isinstance(expire, _Absent):
            return self._ttl
        seconds = expire.total_seconds() if isinstance(expire, timedelta) else expire
        if seconds is None:
            return None
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise StoreError(self.store, "arguments", f"expire is seconds, more than 0, not {expire!r:.60}")
        return max(float(seconds), 0.001)

    def _encoded(self, key: str, value: Any) -> bytes:
        if isinstance(value, bytes | bytearray | memoryview):
            return _OCTETS + bytes(value)
        try:
            octets = orjson.dumps(value, option=_PASSTHROUGH)
        except TypeError as error:
            raise StoreError(self.store, "arguments", f"the value of {key!r:.60} is not JSON: {error}") from None
        if b"null" in octets and _has_odd_number(value):  # which would come back as null
            raise StoreError(
                self.store, "arguments", f"the value of {key!r:.60} is not JSON: it has NaN or an infinity"
            )
        return octets

    def _decoded(self, key: str, octets: bytes | None) -> Any:
        if octets is None:
            return ABSENT
        if octets.startswith(_OCTETS):
            return octets[1:]
        try:
            return orjson.loads(octets)
        except orjson.JSONDecodeError:
            return self._failed(
                StoreError(self.store, "statement", f"what is stored at {key!r:.60} is not of this cache's making"),
                ABSENT,
            )

    # What the host uses ---------------------------------------------------------------------------------------------

    @property
    def opened(self) -> bool:
        return self._backend is not None

    @property
    def backend(self) -> CacheBackend:
        assert self._backend is not None
        return self._backend

    def replace(self, backend: CacheBackend) -> CacheBackend | None:
        """Use another one from now on; gives the one before, on which operations may still be under way."""
        old, self._backend = self._backend, backend
        self._shunned_until = 0.0
        return old

    async def ping(self) -> None:
        """Raises StoreError where the cache does not answer."""
        if self._backend is None:
            raise StoreError(self.store, "unavailable", "the host has not started it, or has stopped")
        await self._run("ping", lambda backend: backend.ping(), ABSENT)

    async def close(self) -> None:
        """Computations that run are cancelled."""
        for computation in tuple(self._computing.values()):
            computation.task.cancel()
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()


class _Computation:
    """One for all who wait; it is cancelled when the last of them is."""

    def __init__(self, store: str, work: Coroutine[Any, Any, bytes]) -> None:
        self._store = store
        self.task: asyncio.Task[bytes] = asyncio.get_running_loop().create_task(work)
        self.abandoned = False  # it is about to end, without a value
        self._waiting = 0

    async def wait(self) -> bytes:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.task.cancelled() and current is not None and not current.cancelling():
                raise StoreError(self._store, "unavailable", "the host stops, and the computation with it") from None
            if self._waiting == 1 and not self.task.done():
                self.abandoned = True
                self.task.cancel()
            raise
        finally:
            self._waiting -= 1


def _has_odd_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(map(_has_odd_number, value.values()))
    return isinstance(value, list | tuple) and any(map(_has_odd_number, value))
