"""A module: its replicas, which of them takes the next request, and the processes beside them during a reload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import WorkspaceModule
from pywatt_host.orchestrator.replica import Replica

Condition: TypeAlias = Literal["service_started", "service_healthy"]


class Module:
    """The replicas of one module. `hidden` are the paths that the gateway never passes on, such as health. Each replica
    may ask for the secrets of the manifest that it runs."""

    def __init__(
        self,
        id: str,
        declared: WorkspaceModule,
        replicas: Sequence[Replica],
        hidden: frozenset[str] = frozenset(),
        manifest: Manifest | None = None,
    ) -> None:
        self.id = id
        self.declared = declared
        self.replicas = tuple(replicas)
        self.hidden = hidden
        for replica in self.replicas:
            replica.secrets = self.granted(manifest)
        self.generation = 1  # how often its code was loaded by all replicas
        self._next = 0
        self._beside: list[Replica] = []  # successors that start, and replaced replicas that drain

    def granted(self, manifest: Manifest | None) -> frozenset[str]:
        """The names of the secrets that a process may ask for that runs this manifest: those that the workspace lists,
        or else those of the manifest. A program without a list may ask for none."""
        if self.declared.secrets is not None:
            return frozenset(self.declared.secrets)
        return frozenset(manifest.secret_keys) if manifest is not None else frozenset()

    @property
    def processes(self) -> tuple[Replica, ...]:
        """The replicas, and during a reload also those that start or drain beside them."""
        return (*self.replicas, *self._beside)

    def add_beside(self, successor: Replica) -> None:
        """Keep a successor that is not in use yet."""
        self._beside.append(successor)

    def swap(self, old: Replica, successor: Replica) -> None:
        """Use the successor in place of `old`, which stays beside the replicas until `remove`."""
        self.replicas = tuple(successor if each is old else each for each in self.replicas)
        self._beside[self._beside.index(successor)] = old
        successor.in_use, old.in_use = True, False

    def remove(self, replica: Replica) -> None:
        """Forget a process beside the replicas that has ended for good."""
        if replica in self._beside:
            self._beside.remove(replica)

    def candidates(self) -> list[Replica]:
        """The replicas that take traffic, the next one first: the healthy ones, or all that run where none is healthy,
        since a module that fails one of its checks can often still answer."""
        running = [replica for replica in self.replicas if replica.running]
        if len(running) > 1:
            running = [replica for replica in running if replica.healthy] or running
            self._next += 1
            first = self._next % len(running)
            return running[first:] + running[:first]
        return running

    def meets(self, condition: Condition) -> bool:
        """Whether the modules that depend on this one may start."""
        if condition == "service_started":
            return any(replica.running for replica in self.replicas)
        return any(replica.healthy for replica in self.replicas)

    def status(self) -> dict[str, Any]:
        """What `ps` and the ready line show."""
        up = sum(replica.running for replica in self.replicas)
        healthy = sum(replica.healthy for replica in self.replicas)
        if healthy == len(self.replicas):
            status = "healthy"
        elif up:
            status = "running"
        else:
            status = self.replicas[0].state
        kind = "manifest" if self.declared.manifest is not None else "command"
        return {
            "id": self.id,
            "kind": kind,
            "status": status,
            "generation": self.generation,
            "replicas": [each.status() for each in sorted(self.processes, key=lambda replica: replica.number)],
        }
