"""A module: its replicas, and which of them is next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from pywatt_host.manifest.model.workspace import WorkspaceModule
from pywatt_host.orchestrator.replica import Replica

Condition: TypeAlias = Literal["service_started", "service_healthy"]


class Module:
    """`hidden` are its paths that the gateway never passes on: health, metrics, messages."""

    def __init__(
        self, id: str, declared: WorkspaceModule, replicas: Sequence[Replica], hidden: frozenset[str] = frozenset()
    ) -> None:
        self.id = id
        self.declared = declared
        self.replicas = tuple(replicas)
        self.hidden = hidden
        self._turn = 0

    def candidates(self) -> list[Replica]:
        """Those that take traffic, in turn: the healthy ones; where none is, all that run, since something that a
        module depends on may fail without everything failing."""
        running = [replica for replica in self.replicas if replica.running]
        if len(running) > 1:
            running = [replica for replica in running if replica.healthy] or running
            self._turn += 1
            turn = self._turn % len(running)
            return running[turn:] + running[:turn]
        return running

    def meets(self, condition: Condition) -> bool:
        """Whether those that depend on it may start."""
        if condition == "service_started":
            return any(replica.running for replica in self.replicas)
        return any(replica.healthy for replica in self.replicas)

    @property
    def settled(self) -> bool:
        """Whether its start has come to something: it runs, has failed once, or is over."""
        return all(
            replica.running or replica.restarts > 0 or replica.over or replica.state == "stopping"
            for replica in self.replicas
        )

    def status(self) -> dict[str, Any]:
        """For `ps` and the ready line."""
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
            "replicas": [replica.status() for replica in self.replicas],
        }
