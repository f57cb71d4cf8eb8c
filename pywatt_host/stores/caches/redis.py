"""Redis and Valkey. Uses redis-py in aiocache's backend.

The client is made from the whole URL, with TLS, Unix sockets and users of an access control list (ACL).
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final

import redis.asyncio as driver
from aiocache.backends.redis import RedisBackend as LibraryBackend  # type: ignore[import-untyped]
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import TimeoutError as LateError

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.caches.backend import translating
from pywatt_host.stores.url import StoreUrl

_TLS: Final = ("rediss", "valkeys")
_SOCKET: Final = ("unix", "redis+unix")
_OPTIONS = ("db", "ca", "cert", "key", "verify")
_SCAN_BATCH = 500  # keys
_HEALTH_CHECK_INTERVAL = 30  # seconds; a connection that was idle for longer is checked before it is used
# Increments the number and, only if the key did not exist, sets its time to live, in one step.
_INCREMENT_SCRIPT = (
    "local there = redis.call('exists', KEYS[1])\n"
    "local sum = redis.call('incrby', KEYS[1], ARGV[1])\n"
    "if there == 0 and ARGV[2] ~= '' then redis.call('pexpire', KEYS[1], ARGV[2]) end\n"
    "return sum"
)


_translated = translating(RedisError, OSError)


class RedisBackend:
    """A cache on one server."""

    kind = "redis"
    shared = True

    def __init__(self, store: str, url: StoreUrl, *, timeout: float, max_connections: int) -> None:
        """`timeout` is in seconds, for connecting and for each answer."""
        self._store = store
        self._url = url
        self._timeout = timeout
        self._max_connections = max_connections
        self._library: Any = None

    @property
    def _client(self) -> Any:
        if self._library is None:
            raise StoreError(self._store, "unavailable", f"{self._url}: the cache is closed")
        return self._library.client

    async def open(self) -> None:
        if self._library is None:
            pool = self._pool()
            self._library = LibraryBackend(timeout=0)
            self._library.client = driver.Redis(connection_pool=pool)
        await self.ping()

    def _pool(self) -> Any:
        url = self._url
        unknown = sorted(set(url.options) - set(_OPTIONS))
        if unknown:
            message = f"url: unknown option {unknown[0]} (known: {', '.join(_OPTIONS)})"
            raise StoreError(self._store, "arguments", message)
        number = url.options.get("db", "0" if url.scheme in _SOCKET else url.path or "0")
        if not re.fullmatch("[0-9]{1,5}", number):
            raise StoreError(self._store, "arguments", f"url: the database must be a number, not {number!r:.40}")
        options: dict[str, Any] = {
            "db": int(number), "username": url.user or None, "password": url.password,
            # No `socket_timeout`: before Python 3.12 its waits lose cancellations. Each caller has its own time limit.
            "socket_timeout": None, "socket_connect_timeout": self._timeout,
            "health_check_interval": _HEALTH_CHECK_INTERVAL,
            # No retries: the server may have run the command. Idle connections are checked before they are used.
            "retry": Retry(NoBackoff(), 0),
        }  # fmt: skip
        if url.scheme in _SOCKET:
            options |= {"connection_class": driver.UnixDomainSocketConnection, "path": f"/{url.path}"}
        else:
            options |= {"host": url.host or "127.0.0.1", "port": url.port or 6379}
        if url.scheme in _TLS:
            options |= {"connection_class": driver.SSLConnection, **self._tls()}
        return driver.BlockingConnectionPool(max_connections=self._max_connections, timeout=self._timeout, **options)

    def _tls(self) -> dict[str, Any]:
        options = self._url.options
        if options.get("verify", "full") not in ("full", "none"):
            raise StoreError(self._store, "arguments", "url: verify must be full or none")
        verify = options.get("verify", "full") == "full"
        try:  # the driver would fail later, for each connection, with a less clear message
            context = ssl.create_default_context(cafile=options.get("ca"))
            if "cert" in options:
                context.load_cert_chain(options["cert"], options.get("key"))
        except OSError as error:
            raise StoreError(self._store, "arguments", f"url: the certificates cannot be read: {error}") from None
        return {
            "ssl_ca_certs": options.get("ca"), "ssl_certfile": options.get("cert"), "ssl_keyfile": options.get("key"),
            "ssl_cert_reqs": "required" if verify else "none", "ssl_check_hostname": verify,
        }  # fmt: skip

    async def close(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            await library.client.aclose()
            await library.client.connection_pool.disconnect(inuse_connections=True)

    @_translated
    async def ping(self) -> None:
        await self._client.ping()

    @_translated
    async def get(self, key: str) -> bytes | None:
        return _as_bytes(await self._client.get(key))

    @_translated
    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [_as_bytes(value) for value in await self._client.mget(list(keys))]

    @_translated
    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        await self._client.set(key, value, px=_millis(ttl))

    @_translated
    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None:
        async with self._client.pipeline(transaction=True) as pipeline:
            for key, value in pairs.items():
                pipeline.set(key, value, px=_millis(ttl))
            await pipeline.execute()

    @_translated
    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return bool(await self._client.set(key, value, px=_millis(ttl), nx=True))

    @_translated
    async def delete(self, keys: Sequence[str]) -> int:
        return int(await self._client.delete(*keys))

    @_translated
    async def exists(self, key: str) -> bool:
        return bool(await self._client.exists(key))

    @_translated
    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        return int(await self._client.eval(_INCREMENT_SCRIPT, 1, key, delta, _millis(ttl) or ""))

    @_translated
    async def release(self, key: str, value: bytes) -> None:
        await self._client.eval(LibraryBackend.RELEASE_SCRIPT, 1, key, value)

    @_translated
    async def clear(self, prefix: str) -> None:
        if not prefix:
            message = "clear would delete all keys of the server, other users' too; give the cache a namespace"
            raise StoreError(self._store, "arguments", message)
        pattern = re.sub(r"([*?\[\]^\\])", r"\\\1", prefix) + "*"
        batch: list[bytes] = []
        async for key in self._client.scan_iter(match=pattern, count=_SCAN_BATCH):
            batch.append(key)
            if len(batch) >= _SCAN_BATCH:
                await self._client.unlink(*batch)
                batch = []
        if batch:
            await self._client.unlink(*batch)

    def sizes(self) -> Mapping[str, float]:
        pool = self._client.connection_pool
        used = len(pool._in_use_connections)
        return {"connections_used": float(used), "connections_idle": float(len(pool._available_connections))}

    def error(self, error: BaseException) -> StoreError:
        text = str(error) or type(error).__name__
        refused = isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError)
        if refused or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")) or "invalid username-password" in text:
            return StoreError(self._store, "authentication", f"{self._url}: {text}")
        if isinstance(error, OutOfMemoryError) or text.startswith(("OOM", "MISCONF")):
            return StoreError(self._store, "full", f"{self._url}: {text}")
        if isinstance(error, ReadOnlyError):
            return StoreError(self._store, "read_only", f"{self._url}: {text}")
        if isinstance(error, LateError | asyncio.TimeoutError):
            return StoreError(self._store, "timeout", f"{self._url}: no answer within {self._timeout:g}s (timeout)")
        if isinstance(error, LostError | OSError):
            return StoreError(self._store, "unavailable", f"{self._url}: {text}")
        if isinstance(error, ResponseError) and "not an integer" in text:
            return StoreError(self._store, "arguments", "the value is not an integer")
        return StoreError(self._store, "statement", f"{self._url}: {text}")


def _as_bytes(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _millis(ttl: float | None) -> int | None:
    return max(1, round(ttl * 1000)) if ttl is not None else None
