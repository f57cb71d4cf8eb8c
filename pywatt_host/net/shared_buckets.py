"""Token buckets in memory that the worker processes of a host share."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

from pywatt_host.manifest.values import Rate
from pywatt_host.net.shared_memory import Locks

SETS = 16_384
WAYS = 8  # buckets in a set
WORDS = SETS * WAYS * 2  # integers of the whole table: a key and a time for each bucket
_REMEMBERED = 1024  # subjects of one limiter whose key is remembered
_NANOSECONDS = 1_000_000_000


class SharedRateLimiter:
    """A token bucket for each subject, for all worker processes together.

    All limiters of a host have one table of 131,072 buckets. The key of a subject says which set of 8 buckets has its
    bucket. Where all 8 are in use, the bucket that would be full first is given up. Its subject starts again with a
    full bucket.

    A bucket is stored as the time at which it is full again, on a clock that all processes share. So where the rate of
    a limiter changes, the time that a subject has to wait is kept, but is never longer than the new rate fills an empty
    bucket.

    Between reading and writing a bucket, a process holds the lock of its set. Where another process was stopped while
    it held that lock, the others write buckets of this set without it (see `Locks`). Then two workers may take the same
    token, and the stopped process, once it goes on, may write the state that one bucket had before. So the error is at
    most one burst of one subject for each such stop. Only the thread of the event loop may use a limiter, since the
    locks do not hold between threads.
    """

    def __init__(
        self,
        name: str,
        rate: Rate,
        table: memoryview[int],
        locks: Locks,
        secret: bytes,
        now: Callable[[], int] = time.monotonic_ns,
        first: int = 0,
    ) -> None:
        """`table` has all buckets; its first integer is the word `first` for `locks`. `secret` is the same in all
        processes and not known to clients, which could choose subjects of one set otherwise. `now` returns
        nanoseconds."""
        self._interval = max(1, int(rate.seconds * _NANOSECONDS) // rate.count)  # nanoseconds for one token
        self._span = self._interval * rate.count  # nanoseconds for a whole bucket
        self._table = table
        self._locks = locks
        self._first = first
        self._now = now
        prefix = f"{name}\0".encode()

        @lru_cache(maxsize=_REMEMBERED)
        def key(subject: str) -> int:
            data = prefix + subject.encode("utf-8", "surrogatepass")
            digest = blake2b(data, digest_size=8, key=secret).digest()
            return int.from_bytes(digest, "little", signed=True) or 1  # 0 is an unused bucket

        self._key = key

    def wait_for(self, subject: str) -> float:
        key = self._key(subject)
        start = key % SETS * WAYS * 2
        now = self._now()
        full_at = self._full_at(key, start)
        if full_at is not None and self._span - self._interval < full_at - now <= self._span:
            return (full_at - now + self._interval - self._span) / _NANOSECONDS  # needs no lock: nothing changes
        locked = self._locks.acquire(self._first + start)
        try:
            keys, times = self._read(start)
            known = key in keys
            place = keys.index(key) if known else times.index(min(times))
            latest = min(max(times[place], now), now + self._span) if known else now
            wait = latest + self._interval - self._span - now
            times_at = start + WAYS + place
            if wait > 0:
                self._table[times_at] = latest
                return wait / _NANOSECONDS
            self._table[times_at] = latest + self._interval
            if not known:
                self._table[start + place] = key
            return 0.0
        finally:
            if locked:
                self._locks.release(self._first + start)

    def give_back(self, subject: str) -> None:
        key = self._key(subject)
        start = key % SETS * WAYS * 2
        locked = self._locks.acquire(self._first + start)
        try:
            keys, times = self._read(start)
            if key in keys:
                place = keys.index(key)
                self._table[start + WAYS + place] = times[place] - self._interval
        finally:
            if locked:
                self._locks.release(self._first + start)

    def _read(self, start: int) -> tuple[list[int], list[int]]:
        """The keys of a set, and the times at which its buckets are full."""
        words = self._table[start : start + 2 * WAYS].tolist()
        return words[:WAYS], words[WAYS:]

    def _full_at(self, key: int, start: int) -> int | None:
        keys, times = self._read(start)
        return times[keys.index(key)] if key in keys else None
