"""memcached. Uses aiomcache in aiocache's backend, with a connection pool of our own.

The pool of aiomcache reuses a connection whose answer was not read to its end, so that the next request reads the
answer to an earlier one. And if the server closes a connection in the middle of an answer, its client reads the end of
the stream for ever and blocks the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import aiomcache
from aiocache.backends.memcached import MemcachedBackend as LibraryBackend  # type: ignore[import-untyped]
from aiomcache.exceptions import ClientException, ValidationException
from aiomcache.pool import Connection, MemcachePool

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.caches.backend import translating
from pywatt_host.stores.url import StoreUrl

_MAX_RELATIVE_TTL = 30 * 24 * 3600  # seconds; memcached reads a longer one as a Unix time (its protocol.txt)
_GENERATION_CACHE_TTL = 1.0  # seconds until the generation is read again: another process may clear the namespace
_MAX_KEY_BYTES = 250
_INVALID_IN_KEY = re.compile(r"[\x00-\x20\x7f]")


class _Connections(MemcachePool):
    """A pool of up to `max_connections` connections. A connection whose use was cancelled is closed."""

    def __init__(self, host: str, port: int, max_connections: int) -> None:
        super().__init__(host, port, minsize=1, maxsize=max_connections)
        self._slots = asyncio.Semaphore(max_connections)
        self._free: list[Connection] = []

    async def acquire(self) -> Connection:
        await self._slots.acquire()
        try:
            while self._free:
                connection = self._free.pop()
                if not _unusable(connection):
                    break
                self._do_close(connection)
            else:
                connection = await _connect(self._host, self._port)
        except BaseException:
            self._slots.release()
            raise
        self._in_use.add(connection)
        return connection

    def release(self, conn: Connection) -> None:
        self._in_use.discard(conn)
        self._slots.release()
        # The client calls this in a `finally`: if an exception is being raised, the answer was not read to its end.
        error = sys.exc_info()[1]
        if _unusable(conn) or (error is not None and not isinstance(error, ValidationException)):
            self._do_close(conn)
        else:
            self._free.append(conn)

    async def clear(self) -> None:
        while self._free:
            self._do_close(self._free.pop())

    def size(self) -> int:
        return len(self._free) + len(self._in_use)

    @property
    def used(self) -> int:
        return len(self._in_use)


class _Reader(asyncio.StreamReader):
    """Raises EOFError at the end of the stream, where `readline` would return no bytes."""

    async def readline(self) -> bytes:
        line = await super().readline()
        if not line.endswith(b"\n"):
            raise EOFError("the server closed the connection")
        return line


async def _connect(host: str, port: int) -> Connection:
    loop = asyncio.get_running_loop()
    reader = _Reader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port)
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _unusable(connection: Connection) -> bool:
    return connection.reader.at_eof() or connection.reader.exception() is not None or connection.writer.is_closing()


_translated = translating(ClientException, ValidationException, OSError, EOFError)


class MemcachedBackend:
    """A cache on one server.

    Each key contains the generation of its namespace, a number. Clearing a namespace means incrementing its generation.
    """

    kind = "memcached"
    shared = True

    def __init__(self, store: str, url: StoreUrl, *, max_connections: int) -> None:
        self._store = store
        self._url = url
        self._max_connections = max_connections
        self._library: Any = None
        self._generations: dict[str, tuple[float, int]] = {}  # namespace -> when it was read, and the generation

    @property
    def _client(self) -> Any:
        if self._library is None:
            raise StoreError(self._store, "unavailable", f"{self._url}: the cache is closed")
        return self._library.client

    async def open(self) -> None:
        url = self._url
        if url.user or url.password or url.options or url.path:
            message = "write memcached://HOST:PORT only: memcached's text protocol has no users, databases or options"
            raise StoreError(self._store, "arguments", f"url: {message}")
        if self._library is None:
            host, port = url.host or "127.0.0.1", url.port or 11211
            self._library = LibraryBackend(endpoint=host, port=port, timeout=0)
            client = aiomcache.Client(host, port)
            client._pool = _Connections(host, port, self._max_connections)
            self._library.client = client
        await self.ping()

    async def close(self) -> None:
        library, self._library = self._library, None
        if library is not None:
            await library.client.close()

    @_translated
    async def ping(self) -> None:
        await self._client.version()

    @_translated
    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._client.get(await self._real(key))
        return value

    @_translated
    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return list(await self._client.multi_get(*[await self._real(key) for key in keys]))

    @_translated
    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        if not await self._client.set(await self._real(key), value, exptime=_exptime(ttl)):
            raise StoreError(self._store, "full", f"{self._url}: the server did not store the value")

    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None:
        for key, value in pairs.items():
            await self.set(key, value, ttl)

    @_translated
    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        return bool(await self._client.add(await self._real(key), value, exptime=_exptime(ttl)))

    @_translated
    async def delete(self, keys: Sequence[str]) -> int:
        return sum([bool(await self._client.delete(await self._real(key))) for key in dict.fromkeys(keys)])

    async def exists(self, key: str) -> bool:
        return await self.get(key) is not None

    @_translated
    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        real = await self._real(key)
        for _ in range(3):
            total = await self._increment_existing(real, delta)
            if total is not None:
                return total
            if await self._client.add(real, str(max(delta, 0)).encode(), exptime=_exptime(ttl)):
                return max(delta, 0)
        raise StoreError(self._store, "conflict", "the key was deleted three times while it was incremented")

    async def _increment_existing(self, real: bytes, delta: int) -> int | None:
        """Return the sum, or None if the key does not exist."""
        step = self._client.incr if delta >= 0 else self._client.decr
        try:
            total = await step(real, abs(delta))
        except ClientException as error:
            if "NOT_FOUND" in str(error):
                return None
            raise
        return None if total is None else int(total)

    async def release(self, key: str, value: bytes) -> None:
        if await self.get(key) == value:  # memcached cannot do this in one step; a lease outlives the two
            await self.delete([key])

    @_translated
    async def clear(self, prefix: str) -> None:
        if not prefix:
            message = "clear would delete all keys of the server, other users' too; give the cache a namespace"
            raise StoreError(self._store, "arguments", message)
        counter = _valid_key(f"pywatt-generation:{prefix}")
        total = await self._increment_existing(counter, 1)
        if total is None:
            total = time.time_ns() // 1000
            await self._client.set(counter, str(total).encode())
        self._generations[prefix] = (time.monotonic(), total)

    async def _real(self, key: str) -> bytes:
        """Return the key with the generation of its namespace, so that keys from before a `clear` are not found."""
        prefix = key.partition(":")[0] + ":"
        now = time.monotonic()
        read_at, generation = self._generations.get(prefix, (-math.inf, 0))
        if now - read_at > _GENERATION_CACHE_TTL:
            found = await self._client.get(_valid_key(f"pywatt-generation:{prefix}"))
            generation = int(found) if found is not None and found.isdigit() else 0
            self._generations[prefix] = (now, generation)
        return _valid_key(f"{generation}:{key}")

    def sizes(self) -> Mapping[str, float]:
        pool = self._client._pool
        return {"connections_used": float(pool.used), "connections_idle": float(pool.size() - pool.used)}

    def error(self, error: BaseException) -> StoreError:
        text = str(error) or type(error).__name__
        if isinstance(error, ValidationException):
            return StoreError(self._store, "arguments", text)
        if "too large" in text:
            return StoreError(self._store, "arguments", "the value is larger than the server allows (default: 1 MiB)")
        if "non-numeric" in text:
            return StoreError(self._store, "arguments", "the value is not an integer")
        if "out of memory" in text:
            return StoreError(self._store, "full", f"{self._url}: {text}")
        if isinstance(error, OSError | EOFError):
            return StoreError(self._store, "unavailable", f"{self._url}: {text}")
        return StoreError(self._store, "statement", f"{self._url}: {text}")


def _valid_key(key: str) -> bytes:
    """Return the key in the form that memcached allows: a key that is too long or contains spaces is hashed."""
    encoded = key.encode("utf-8", "surrogatepass")
    if len(encoded) > _MAX_KEY_BYTES or _INVALID_IN_KEY.search(key) is not None:
        return b"sha256:" + hashlib.sha256(encoded).hexdigest().encode()
    return encoded


def _exptime(ttl: float | None) -> int:
    """Return the time to live in whole seconds, rounded up; 0 means for ever."""
    if ttl is None:
        return 0
    seconds = math.ceil(ttl)
    return seconds if seconds <= _MAX_RELATIVE_TTL else int(time.time()) + seconds
