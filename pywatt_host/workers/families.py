"""The metrics of the supervisor itself: its workers, reloads, channels and rotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pywatt_host.build.host_metrics import Values
from pywatt_host.observability.metrics import Family, Histogram
from pywatt_host.workers.pool import WorkerPool

if TYPE_CHECKING:
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.build.none import NoChannels

_STATES = ("starting", "ready", "accepting", "draining")
_REASONS = ("ended", "blocked", "recycled")
_RESULTS = ("success", "error")
_OF_WORKERS = "pywatt_messages"  # a family of the channels that the workers count


class SupervisorFamilies:
    """Gives the families as they are now. `reloads` counts reloads by result."""

    def __init__(self, pool: WorkerPool, channels: HostChannels | NoChannels, reloads: Counter[str]) -> None:
        self._pool = pool
        self._channels = channels
        self._reloads = reloads

    def __call__(self) -> Iterator[Family | Histogram]:
        yield from self._of_pool()
        if self._pool.current is not None:
            yield from self._pool.current.tracing.families()
        reloads: Values = {(result,): float(self._reloads[result]) for result in _RESULTS}
        yield Family("counter", "pywatt_reloads", "Reloads, by result.", ("result",), reloads)
        yield from (family for family in self._channels.families() if family.name != _OF_WORKERS)
        if self._pool.current is not None:
            counts = self._pool.current.rotation.counts
            rotations: Values = {(result,): float(counts[result]) for result in _RESULTS}
            yield from self._pool.current.tls.families()
            doc = "Rotations of secrets, by result."
            yield Family("counter", "pywatt_secret_rotations", doc, ("result",), rotations)

    def _of_pool(self) -> Iterator[Family]:
        pool = self._pool
        restarts: Values = {(reason,): float(pool.restarts[reason]) for reason in _REASONS}
        yield Family("counter", "pywatt_worker_restarts", "Workers that were replaced.", ("reason",), restarts)
        current = pool.current.number if pool.current is not None else 0
        yield Family("gauge", "pywatt_generation", "The generation in use.", (), {(): float(current)})
        states = Counter(worker.state for worker in pool.all())
        by_state: Values = {(state,): float(states[state]) for state in _STATES}  # type: ignore[index]
        yield Family("gauge", "pywatt_workers", "Workers by state.", ("state",), by_state)
        workers = {str(worker.place + 1): worker for worker in pool.accepting()}
        ages: Values = {(name,): worker.age for name, worker in workers.items()}
        yield Family("gauge", "pywatt_worker_age_seconds", "Seconds since a worker started.", ("worker",), ages)
        memory = {name: pool.memory(worker) for name, worker in workers.items()}
        known: Values = {(name,): float(used) for name, used in memory.items() if used is not None}
        yield Family("gauge", "pywatt_worker_memory_bytes", "Memory that a worker has for itself.", ("worker",), known)
