"""memcached, by aiomcache in aiocache's backend, with connections of our own.

Theirs are handed on when an answer was not read to its end, so that whoever gets one reads the answer to somebody
else's question; and where the server closes one in the middle, the client reads the end of the stream for ever without
letting anybody else run.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import aiomcache
from aiocache.backends.memcached import MemcachedBackend as LibraryBackend  # type: ignore[import-untyped]
from aiomcache.exceptions import ClientException, ValidationException
from aiomcache.pool import Connection, MemcachePool

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.url import StoreUrl

P = ParamSpec("P")
T = TypeVar("T")

_MONTH = 30 * 24 * 3600  # seconds; a longer time is read as a moment (protocol.txt of memcached)
_GENERATION = 1.0  # seconds after which it is asked again whether another process has cleared the namespace
_LONGEST = 250  # octets of a key
_ODD = re.compile(r"[\x00-\x20\x7f]")


class _Connections(MemcachePool):
    """As many as wanted, up to the most; one whose use was cancelled is closed."""

    def __init__(self, host: str, port: int, most: int) -> None:
        super().__init__(host, port, minsize=1, maxsize=most)
        self._slots = asyncio.Semaphore(most)
        self._free: list[Connection] = []

    async def acquire(self) -> Connection:
        await self._slots.acquire()
        try:
            while self._free:
                connection = self._free.pop()
                if not _spent(connection):
                    break
                self._do_close(connection)
            else:
                connection = await _connected(self._host, self._port)
        except BaseException:
            self._slots.release()
            raise
        self._in_use.add(connection)
        return connection

    def release(self, conn: Connection) -> None:
        self._in_use.discard(conn)
        self._slots.release()
        # The client calls this on its way out: an exception that is under way has cut the conversation short.
        cut = sys.exc_info()[1]
        if _spent(conn) or (cut is not None and not isinstance(cut, ValidationException)):
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
    """Raises at the end of the stream, where another gives nothing."""

    async def readline(self) -> bytes:
        line = await super().readline()
        if not line.endswith(b"\n"):
            raise EOFError("the server closed the connection")
        return line


async def _connected(host: str, port: int) -> Connection:
    loop = asyncio.get_running_loop()
    reader = _Reader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.create_connection(lambda: protocol, host, port)
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


def _spent(connection: Connection) -> bool:
    return connection.reader.at_eof() or connection.reader.exception() is not None or connection.writer.is_closing()


def _translated(
    method: Callable[Concatenate[MemcachedBackend, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[MemcachedBackend, P], Coroutine[Any, Any, T]]:
    """Errors of the driver become ours."""

    @wraps(method)
    async def run(self: MemcachedBackend, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(self, *args, **kwargs)
        except (ClientException, ValidationException, OSError, EOFError) as error:
            raise self.error(error) from error

    return run  # type: ignore[return-value]  # mypy takes what `wraps` gives for a type of its own


class MemcachedBackend:
    """One server. A namespace is cleared by counting its generation, which is a part of each key."""

    kind = "memcached"
    shared = True

    def __init__(self, store: str, url: StoreUrl, *, most: int) -> None:
        """`most` connections."""
        self._store = store
        self._url = url
        self._most = most
        self._library: Any = None
        self._generations: dict[str, tuple[float, int]] = {}  # namespace -> when it was asked for, and what it is

    @property
    def _client(self) -> Any:
        if self._library is None:
            raise StoreError(self._store, "unavailable", f"{self._url}: it is closed")
        return self._library.client

    async def open(self) -> None:
        url = self._url
        if url.user or url.password or url.options or url.path:
            hint = "memcached://HOST:PORT is all there is: memcached's text protocol knows no users or databases"
            raise StoreError(self._store, "arguments", f"url: {hint}")
        if self._library is None:
            host, port = url.host or "127.0.0.1", url.port or 11211
            self._library = LibraryBackend(endpoint=host, port=port, timeout=0)
            client = aiomcache.Client(host, port)
            client._pool = _Connections(host, port, self._most)
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
            raise StoreError(self._store, "full", f"{self._url}: the server did not take a value")

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
            total = await self._stepped(real, delta)
            if total is not None:
                return total
            if await self._client.add(real, str(max(delta, 0)).encode(), exptime=_exptime(ttl)):
                return max(delta, 0)
        raise StoreError(self._store, "conflict", "a number vanished three times while it was counted up")

    async def _stepped(self, real: bytes, delta: int) -> int | None:
        """None where nothing is there."""
        step = self._client.incr if delta >= 0 else self._client.decr
        try:
            total = await step(real, abs(delta))
        except ClientException as error:
            if "NOT_FOUND" in str(error):
                return None
            raise
        return None if total is None else int(total)

    async def release(self, key: str, value: bytes) -> None:
        if await self.get(key) == value:  # there is no single step for it; a lease outlives the time between
            await self.delete([key])

    @_translated
    async def clear(self, prefix: str) -> None:
        if not prefix:
            raise StoreError(self._store, "arguments", "clear would empty a server that others use; give a namespace")
        counter = _fit(f"pywatt-generation:{prefix}")
        total = await self._stepped(counter, 1)
        if total is None:
            total = time.time_ns() // 1000
            await self._client.set(counter, str(total).encode())
        self._generations[prefix] = (time.monotonic(), total)

    async def _real(self, key: str) -> bytes:
        """The key with the generation of its namespace: what was there before it was cleared is found no more."""
        prefix = key.partition(":")[0] + ":"
        now = time.monotonic()
        asked, generation = self._generations.get(prefix, (-math.inf, 0))
        if now - asked > _GENERATION:
            found = await self._client.get(_fit(f"pywatt-generation:{prefix}"))
            generation = int(found) if found is not None and found.isdigit() else 0
            self._generations[prefix] = (now, generation)
        return _fit(f"{generation}:{key}")

    def sizes(self) -> Mapping[str, float]:
        pool = self._client._pool
        return {"connections_used": float(pool.used), "connections_idle": float(pool.size() - pool.used)}

    def error(self, error: BaseException) -> StoreError:
        text = str(error) or type(error).__name__
        if isinstance(error, ValidationException):
            return StoreError(self._store, "arguments", text)
        if "too large" in text:
            return StoreError(self._store, "arguments", "the value is larger than the server takes (1 MiB by default)")
        if "non-numeric" in text:
            return StoreError(self._store, "arguments", "what is there is no whole number")
        if "out of memory" in text:
            return StoreError(self._store, "full", f"{self._url}: {text}")
        if isinstance(error, OSError | EOFError):
            return StoreError(self._store, "unavailable", f"{self._url}: {text}")
        return StoreError(self._store, "statement", f"{self._url}: {text}")


def _fit(key: str) -> bytes:
    """A key that memcached takes: what is too long or has spaces is hashed."""
    octets = key.encode("utf-8", "surrogatepass")
    if len(octets) > _LONGEST or _ODD.search(key) is not None:
        return b"sha256:" + hashlib.sha256(octets).hexdigest().encode()
    return octets


def _exptime(ttl: float | None) -> int:
    """Whole seconds, rounded up; 0 is for ever."""
    if ttl is None:
        return 0
    seconds = math.ceil(ttl)
    return seconds if seconds <= _MONTH else int(time.time()) + seconds
