"""Checks of `server.workers` against the machine, and of what each worker has of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pywatt_host.manifest.machine import usable_cores, usable_memory
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.stores import scheme_of
from pywatt_host.manifest.problems import KeyPath, Severity
from pywatt_host.manifest.values import SecretTemplate

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

WORKER_MEMORY = 60 * 1024**2  # bytes that a worker uses at least: the interpreter, the host and a small application
WORKERS_PER_CORE = 4  # more workers than this only wait for each other
_MIB = 1024**2


class WorkerChecks:
    """Warns with `add`. `unset` says whether a value was left out because a variable is not set. `cores` and `memory`
    say what the machine lets this process use."""

    def __init__(
        self,
        manifest: Manifest,
        add: Add,
        unset: Callable[[KeyPath], bool],
        *,
        cores: Callable[[], int] = usable_cores,
        memory: Callable[[], int | None] = usable_memory,
    ) -> None:
        self._manifest = manifest
        self._add = add
        self._unset = unset
        self._cores = cores
        self._memory = memory

    def check(self) -> None:
        workers = self._manifest.server.workers
        path: KeyPath = ("server", "workers", "count")
        if workers.count == 1 or self._unset(path):
            return
        count = workers.resolved(self._cores)
        if count > 1:
            self._fits_the_cores(path, count)
            self._fits_the_memory(path, count)
            self._caches(count)

    def _fits_the_cores(self, path: KeyPath, count: int) -> None:
        cores = self._cores()
        if count > WORKERS_PER_CORE * cores:
            usable = "1 core" if cores == 1 else f"{cores} cores"
            message = f"{count} workers are more than {WORKERS_PER_CORE} for each core: this process may use {usable}"
            self._add(path, "workers-cores", message, "write auto, or a number up to twice the cores", "warning")

    def _fits_the_memory(self, path: KeyPath, count: int) -> None:
        memory, needed = self._memory(), count * WORKER_MEMORY
        if memory is not None and needed > memory:
            message = (
                f"{count} workers need at least {needed // _MIB} MiB of memory, but this process may use"
                f" {memory // _MIB} MiB"
            )
            hint = f"write at most {max(1, memory // WORKER_MEMORY)}, or give the process more memory"
            self._add(path, "workers-memory", message, hint, "warning")

    def _caches(self, count: int) -> None:
        for name, cache in self._manifest.caches.items():
            path: KeyPath = ("caches", name, "url")
            if isinstance(cache.url, SecretTemplate) or self._unset(path) or scheme_of(cache.url) != "memory":
                continue
            message = f"each of the {count} workers has a cache of its own: what one stores, the others do not see"
            hint = "use redis:// or memcached:// for a cache that all workers share"
            self._add(path, "cache-per-worker", message, hint, "warning")
