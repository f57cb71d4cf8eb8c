"""Gates for running requests, in memory that the worker processes of a host share."""

from __future__ import annotations

import time
from hashlib import blake2b

from pywatt_host.net.limits import Cell
from pywatt_host.net.shared_memory import Locks

SLOTS = 256  # worker processes at a time, of all generations
GATES = 4096
_WAIT = 1.0  # seconds for the lock on the table of names


class SharedGate:
    """Allows at most `limit` requests at once in all worker processes together.

    Each worker writes its own number of running requests to a cell of its own (`count`), so that no lock is needed. The
    gate is full when the sum of all cells has reached the limit. Workers that begin a request at the same moment do not
    see each other's, so there may be one request too many for each other worker.

    To spare most requests the sum, each worker has a share: the limit divided by the number of workers. While no worker
    has more than its share, the sum cannot be over the limit. `room` is one word for all workers: their share, or 0
    while one of them has more than its share, in which case each request needs the sum. A worker sets it to 0 before it
    exceeds its share. The supervisor does so when a worker is added or has ended.

    Where a reload changes a limit, the larger limit may hold until the old workers have ended.
    """

    __slots__ = ("_active", "_cells", "_width", "count", "limit", "room")

    def __init__(self, limit: int, cells: memoryview[int], slot: int, room: Cell, active: Cell, width: Cell) -> None:
        """`cells` has the running requests by slot. `active` is the number of workers, and `width` is the number of
        slots of which any may be in use."""
        self.limit = limit
        self.count: Cell = cells[slot : slot + 1]
        self.room = room
        self._cells = cells
        self._active = active
        self._width = width

    def full(self) -> bool:
        own = self.count[0]
        if own < self.room[0]:
            return False
        counts = self._cells[: self._width[0]].tolist()
        active = self._active[0]
        share = self.limit // max(1, active)
        if own < share and max(counts) <= share:
            self.room[0] = share
            if self._active[0] != active:  # a worker was added at this moment, so the share is not right
                self.room[0] = 0
            return False
        self.room[0] = 0
        return sum(counts) >= self.limit


class GateNames:
    """Which row of cells each gate has: a table of the digests of their names, to which each worker may add one.

    A row is never given to another name. So workers of different generations agree, whatever their manifests have.
    """

    def __init__(self, table: memoryview[int], locks: Locks, word: int) -> None:
        """`word` is what `locks` locks for the table."""
        self._table = table
        self._locks = locks
        self._word = word

    def row(self, name: str) -> int | None:
        """The row of a name; None where the table is full or cannot be written."""
        digest = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little", signed=True) or 1
        found = self._find(digest)
        if found is None or self._table[found] == digest:
            return found
        deadline = time.monotonic() + _WAIT
        while not self._locks.acquire(self._word):
            if time.monotonic() >= deadline:
                return None  # without the lock, two names might get one row
            time.sleep(0.01)
        try:
            found = self._find(digest)
            if found is not None:
                self._table[found] = digest
            return found
        finally:
            self._locks.release(self._word)

    @property
    def used(self) -> int:
        """How many rows have a name."""
        found = self._find(0)
        return GATES if found is None else found

    def _find(self, digest: int) -> int | None:
        """The row that has the digest, else the first one without a name; None where there is neither."""
        for row, known in enumerate(self._table):
            if known in (digest, 0):
                return row
        return None
