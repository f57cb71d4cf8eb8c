"""Which worker is to be replaced since it has served, lived or grown enough (`server.workers.recycle`)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

# Seconds of age from which memory counts: where new workers are over the limit too, they must not be replaced at once.
_MEMORY_FROM = 10.0


class RecycleLimits(Protocol):
    """When a worker is replaced (`server.workers.recycle`): after so many requests, after so many seconds, above so
    many bytes of its own memory. None: not for that reason. `jitter` is the part by which the limits are larger or
    smaller for a single worker, at most."""

    @property
    def requests(self) -> int | None: ...

    @property
    def age(self) -> float | None: ...

    @property
    def memory(self) -> int | None: ...

    @property
    def jitter(self) -> float: ...


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What a worker has used. `id` is never used again for another worker. `memory` is None where it is not known."""

    id: int
    requests: int
    age: float
    memory: int | None


@dataclass(frozen=True, slots=True)
class Due:
    """A worker that is to be replaced, and why, for the log."""

    id: int
    reason: str


@dataclass(slots=True)
class Recycling:
    """Says which worker is due, one at a time.

    The limits of each worker are drawn once, so that workers which began together are not due together. `draw` returns
    a random number within its arguments.
    """

    limits: RecycleLimits
    draw: Callable[[float, float], float] = random.uniform
    _factors: dict[int, float] = field(default_factory=dict)

    def due(self, workers: Iterable[WorkerUse], replacing: bool) -> Due | None:
        """The worker to replace now: of those over a limit, the one that is furthest over it. `workers` are all that
        serve. While `replacing` (one is replaced, for whatever reason), no worker is due."""
        workers = list(workers)
        present = {worker.id for worker in workers}
        self._factors = {id: factor for id, factor in self._factors.items() if id in present}
        over: list[tuple[float, Due]] = []
        for worker in workers:
            share, reason = self._most_used(worker)
            if share >= 1.0:
                over.append((share, Due(worker.id, reason)))
        if replacing or not over:
            return None
        return max(over, key=lambda each: each[0])[1]

    def _most_used(self, worker: WorkerUse) -> tuple[float, str]:
        """The part of a limit that a worker has used, of the limit of which it has used most; and what it has used."""
        limits, factor = self.limits, self._factor(worker.id)
        used = [(0.0, "")]
        if limits.requests is not None:
            used.append((worker.requests / (limits.requests * factor), f"it has served {worker.requests} requests"))
        if limits.age is not None:
            used.append((worker.age / (limits.age * factor), f"it has run for {worker.age:.0f} s"))
        if limits.memory is not None and worker.memory is not None and worker.age >= _MEMORY_FROM:
            mebibytes = worker.memory / 1024**2
            used.append((worker.memory / (limits.memory * factor), f"it uses {mebibytes:.0f} MiB of memory"))
        return max(used)

    def _factor(self, id: int) -> float:
        if id not in self._factors:
            self._factors[id] = 1.0 + self.draw(-self.limits.jitter, self.limits.jitter)
        return self._factors[id]
