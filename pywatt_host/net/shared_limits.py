"""Limits that hold for a host over all its worker processes.

The supervisor makes `SharedLimits`, and gives each worker process a slot and the descriptor. The worker attaches, and
its host is built with the `WorkerLimits`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pywatt_host.exceptions import ServiceError
from pywatt_host.manifest.values import Rate
from pywatt_host.net.limits import Cell, Gate, LocalGate
from pywatt_host.net.shared_buckets import WORDS as BUCKET_WORDS
from pywatt_host.net.shared_buckets import SharedRateLimiter
from pywatt_host.net.shared_gates import GATES, SLOTS, GateNames, SharedGate
from pywatt_host.net.shared_memory import Locks, mapped, new_descriptor

logger = logging.getLogger("pywatt.host")

_LAYOUT = 0x5057_4C49_0001  # changes whenever the layout does
_HEADER = 16  # integers at the beginning
_SECRET_WORDS = 2

# The rows of cells: one cell for each slot.
_CONNECTIONS, _ACCEPTING, _SET_ASIDE, _FIRST_GATE = range(4)


class _Layout(NamedTuple):
    """The parts of the shared memory."""

    layout: memoryview[int]
    active: memoryview[int]  # slots in use
    width: memoryview[int]  # 1 + the highest slot in use
    secret: memoryview[int]
    names: memoryview[int]
    rooms: memoryview[int]
    cells: memoryview[int]
    buckets: memoryview[int]

    def row(self, number: int) -> memoryview[int]:
        return self.cells[number * SLOTS : (number + 1) * SLOTS]


_NAMES_AT = _HEADER
_ROOMS_AT = _NAMES_AT + GATES
_CELLS_AT = _ROOMS_AT + GATES
_BUCKETS_AT = _CELLS_AT + (_FIRST_GATE + GATES) * SLOTS
_WORDS = _BUCKETS_AT + BUCKET_WORDS


def _laid_out(words: memoryview[int]) -> _Layout:
    return _Layout(
        words[0:1],
        words[1:2],
        words[2:3],
        words[3 : 3 + _SECRET_WORDS],
        words[_NAMES_AT:_ROOMS_AT],
        words[_ROOMS_AT:_CELLS_AT],
        words[_CELLS_AT:_BUCKETS_AT],
        words[_BUCKETS_AT:_WORDS],
    )


class SharedLimits:
    """The supervisor's side: it makes the memory, gives slots to workers, and clears those of workers that ended.

    A slot belongs to one worker process of one generation, from `assign` until `clear`.
    """

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is that of new memory, which this object owns from now on."""
        self.descriptor = descriptor
        self._memory = _laid_out(mapped(descriptor, _WORDS))
        self._memory.secret[:] = memoryview(os.urandom(8 * _SECRET_WORDS)).cast("q")
        self._memory.layout[0] = _LAYOUT
        self._locks = Locks(descriptor)
        self._names = GateNames(self._memory.names, self._locks, _NAMES_AT)
        self._used: set[int] = set()

    @classmethod
    def create(cls) -> SharedLimits:
        """New limits, in use by nobody. `descriptor` is not inherited unless the caller passes it on (`pass_fds`,
        SCM_RIGHTS). Raises OSError."""
        return cls(new_descriptor(_WORDS))

    @staticmethod
    def attach(descriptor: int, slot: int) -> WorkerLimits:
        """The limits of the worker that has the slot. Call it in the worker's own process, after the last fork. The
        result owns the descriptor.

        Raises ServiceError where the supervisor runs another version of this package.
        """
        return WorkerLimits(descriptor, slot)

    def assign(self) -> int:
        """A slot for a new worker. Raises ServiceError where all 256 are in use."""
        slot = next((each for each in range(SLOTS) if each not in self._used), None)
        if slot is None:
            raise ServiceError("workers", f"{SLOTS} worker processes exist already, old ones that still drain included")
        self._zero(slot)
        self._used.add(slot)
        self._changed()
        return slot

    def clear(self, slot: int) -> None:
        """The worker that had the slot has ended: its requests and connections count no more."""
        self._used.discard(slot)
        self._zero(slot)
        self._changed()

    def connections(self, slot: int) -> int:
        """How many connections the worker has open."""
        return self._memory.row(_CONNECTIONS)[slot]

    @contextmanager
    def alone(self, slot: int) -> Iterator[bool]:
        """Keep the worker from taking connections that are passed to it. Gives False where it does so just now."""
        with _locked(self._locks, slot) as held:
            yield held

    def set_aside(self, slot: int, aside: bool) -> None:
        """Whether `least_connections` leaves a worker out, such as one that does not respond."""
        self._memory.row(_SET_ASIDE)[slot] = int(aside)

    def close(self) -> None:
        """Give up the descriptor. Workers that are attached keep the memory."""
        os.close(self.descriptor)

    def _zero(self, slot: int) -> None:
        for row in range(_FIRST_GATE + self._names.used):
            self._memory.row(row)[slot] = 0

    def _changed(self) -> None:
        """Workers compute their shares anew from now on."""
        self._memory.active[0] = len(self._used)
        self._memory.width[0] = max(self._used, default=-1) + 1
        for row in range(self._names.used):
            self._memory.rooms[row] = 0


@contextmanager
def _locked(locks: Locks, slot: int) -> Iterator[bool]:
    """The lock on what is passed to a worker; False where another process has it."""
    word = _CELLS_AT + _CONNECTIONS * SLOTS + slot
    held = locks.acquire(word)
    try:
        yield held
    finally:
        if held:
            locks.release(word)


class _Connections:
    """How many connections the worker has open. Only the worker itself writes it."""

    def __init__(self, cell: Cell) -> None:
        self._cell = cell

    def set(self, value: int) -> None:
        self._cell[0] = value


class WorkerLimits:
    """The worker's side: implements `Limits`."""

    def __init__(self, descriptor: int, slot: int, now: Callable[[], int] = time.monotonic_ns) -> None:
        """See `SharedLimits.attach`. `now` returns nanoseconds."""
        try:
            self._memory = _laid_out(mapped(descriptor, _WORDS))
        except ValueError:
            raise _other_version() from None
        if self._memory.layout[0] != _LAYOUT:
            raise _other_version()
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._slot = slot
        self._now = now
        self._secret = self._memory.secret.tobytes()
        self._locks = Locks(descriptor, now)
        self._names = GateNames(self._memory.names, self._locks, _NAMES_AT)
        self._open = self._memory.row(_CONNECTIONS)
        self._accepting = self._memory.row(_ACCEPTING)
        self._aside = self._memory.row(_SET_ASIDE)
        self.connections = _Connections(self._open[slot : slot + 1])

    def gate(self, name: str, limit: int) -> Gate:
        """A gate that all workers share which use the name. Where the 4,096 names are used up by earlier generations, a
        warning is logged, and the limit holds for this worker alone."""
        row = self._names.row(name)
        if row is None:
            logger.warning(
                "the limit on concurrent requests of %s holds for each worker by itself: the host remembers %d names,"
                " and they are used up. Restart the host to begin again",
                name,
                GATES,
                extra={"key": "server.workers"},
            )
            return LocalGate(limit)
        memory = self._memory
        cells, room = memory.row(_FIRST_GATE + row), memory.rooms[row : row + 1]
        return SharedGate(limit, cells, self._slot, room, memory.active, memory.width)

    def rate_limiter(self, name: str, rate: Rate) -> SharedRateLimiter:
        """A rate limiter that all workers share which use the name."""
        return SharedRateLimiter(name, rate, self._memory.buckets, self._locks, self._secret, self._now, _BUCKETS_AT)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Take connections that the supervisor passes. Gives False where it takes them back just now."""
        with _locked(self._locks, self._slot) as held:
            yield held

    def accepting(self, accepts: bool) -> None:
        """Whether this worker takes connections from others."""
        self._accepting[self._slot] = int(accepts)

    def least_connections(self) -> int | None:
        """The smallest number of open connections of any other worker that takes connections; None where there is no
        such worker."""
        width = self._memory.width[0]
        accepting, aside = self._accepting[:width].tolist(), self._aside[:width].tolist()
        counts = self._open[:width].tolist()
        return min(
            (count for slot, count in enumerate(counts) if accepting[slot] and not aside[slot] and slot != self._slot),
            default=None,
        )

    def close(self) -> None:
        """Give up the descriptor, once the host has stopped."""
        os.close(self._descriptor)


def _other_version() -> ServiceError:
    return ServiceError(
        "workers", "the supervisor runs another version of pywatt-host than its new workers; restart the host"
    )
