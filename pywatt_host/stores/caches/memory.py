"""A cache in the memory of this process, with a maximum number of entries and bytes. It evicts the least recently used
entries first."""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from pywatt_host.exceptions import StoreError

_ENTRY_OVERHEAD = 200  # bytes of memory, roughly, that an entry takes besides its key and value


class MemoryBackend:
    """Stores entries in a dict. An expired entry is removed when it is read or when its space is needed, not by a
    timer."""

    kind = "memory"
    shared = False

    def __init__(
        self, store: str, max_entries: int, max_bytes: int, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` returns seconds."""
        self._store = store
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        # For each key its value and when it expires; the entry that was used last comes last.
        self._entries: OrderedDict[str, tuple[bytes, float | None]] = OrderedDict()
        self._ends: list[tuple[float, str]] = []  # a heap of expiry times; the entry may have been replaced since
        self._bytes = 0

    async def open(self) -> None:
        return

    async def close(self) -> None:
        self._entries.clear()
        self._ends.clear()
        self._bytes = 0

    async def ping(self) -> None:
        return

    async def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, end = entry
        if end is not None and end <= self._clock():
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl: float | None) -> None:
        size = self._size(key, value)
        if size > self._max_bytes:
            message = f"a value of {len(value)} bytes is larger than the whole cache may be (max_bytes)"
            raise StoreError(self._store, "full", message)
        now = self._clock()
        self._remove(key)
        end = now + ttl if ttl is not None else None
        self._entries[key] = (value, end)
        self._bytes += size
        if end is not None:
            heapq.heappush(self._ends, (end, key))
        if len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._evict(now)
        if len(self._ends) > 2 * len(self._entries) + 64:
            self._sweep()

    async def set_many(self, pairs: Mapping[str, bytes], ttl: float | None) -> None:
        for key, value in pairs.items():
            await self.set(key, value, ttl)

    async def add(self, key: str, value: bytes, ttl: float | None) -> bool:
        if await self.get(key) is not None:
            return False
        await self.set(key, value, ttl)
        return True

    async def delete(self, keys: Sequence[str]) -> int:
        there = [key for key in dict.fromkeys(keys) if await self.exists(key)]
        for key in there:
            self._remove(key)
        return len(there)

    async def exists(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and (entry[1] is None or entry[1] > self._clock())

    async def increment(self, key: str, delta: int, ttl: float | None) -> int:
        before = await self.get(key)
        end = self._entries[key][1] if before is not None else None
        try:
            total = int(before or b"0") + delta
        except ValueError:
            raise StoreError(self._store, "arguments", "the value is not an integer") from None
        if before is not None:
            ttl = max(end - self._clock(), 0.001) if end is not None else None
        await self.set(key, str(total).encode(), ttl)
        return total

    async def release(self, key: str, value: bytes) -> None:
        if await self.get(key) == value:
            self._remove(key)

    async def clear(self, prefix: str) -> None:
        for key in [key for key in self._entries if key.startswith(prefix)]:
            self._remove(key)

    def sizes(self) -> Mapping[str, float]:
        return {"entries": float(len(self._entries)), "bytes": float(self._bytes)}

    @staticmethod
    def _size(key: str, value: bytes) -> int:
        return len(key) + len(value) + _ENTRY_OVERHEAD

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= self._size(key, entry[0])

    def _evict(self, now: float) -> None:
        """Remove expired entries, then the least recently used ones, until the limits are met."""
        while self._ends and self._ends[0][0] <= now:
            end, key = heapq.heappop(self._ends)
            entry = self._entries.get(key)
            if entry is not None and entry[1] == end:
                self._remove(key)
        while len(self._entries) > self._max_entries or self._bytes > self._max_bytes:
            self._remove(next(iter(self._entries)))

    def _sweep(self) -> None:
        """Drop the expiry times of entries that are gone or have a new one."""
        self._ends = [(end, key) for key, (_, end) in self._entries.items() if end is not None]
        heapq.heapify(self._ends)
