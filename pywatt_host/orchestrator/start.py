"""The start of a workspace: when it is ready, what it waits for, and which module cannot start at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica

logger = logging.getLogger("pywatt.wattson")

_CODES = (2, 3)  # with which a host of this package ends where its manifest or its code is at fault
_FIRST_TOLD = 10.0  # seconds after which a start that goes on is told; then after twice as long, and so on


class Start:
    """The start of all modules."""

    def __init__(self, modules: Mapping[str, Module], *, ends_at_a_fault: bool) -> None:
        """With `ends_at_a_fault`, a module of ours that cannot start ends the workspace, unless it is to be restarted
        always."""
        self._modules = modules
        self._ends_at_a_fault = ends_at_a_fault

    @property
    def ready(self) -> bool:
        """Whether every module is: each of its processes answers and passes its checks, or has ended as it should."""
        return all(_is_ready(replica) for module in self._modules.values() for replica in module.replicas)

    @property
    def fault(self) -> tuple[Replica, int] | None:
        """A process that has ended before it could serve, because of its manifest or its code; and its exit code."""
        if not self._ends_at_a_fault:
            return None
        for module in self._modules.values():
            if module.declared.manifest is None or module.declared.restart == "always":
                continue
            for replica in module.replicas:
                ending = replica.ending
                if ending is not None and not ending.announced and ending.code in _CODES:
                    return replica, ending.code
        return None

    def waits_for(self) -> Iterator[str]:
        """What is not ready yet, and why."""
        for module in self._modules.values():
            for replica in module.replicas:
                if not _is_ready(replica):
                    yield f"{replica.label} ({replica.why or self._dependencies(module) or replica.state})"

    def _dependencies(self, module: Module) -> str:
        if module.replicas[0].state != "waiting":
            return ""
        needed = module.declared.depends_on.items()
        missing = [id for id, dependency in needed if not self._modules[id].meets(dependency.condition)]
        return f"waits for {', '.join(missing)}" if missing else ""

    async def tell_what_it_waits_for(self) -> None:
        """Log what the start waits for, less and less often, until this is cancelled."""
        delay = seconds = _FIRST_TOLD
        while True:
            await asyncio.sleep(delay)
            logger.warning("not ready after %gs: %s", seconds, ", ".join(self.waits_for()))
            delay, seconds = seconds, 2 * seconds


def _is_ready(replica: Replica) -> bool:
    return replica.healthy or replica.state == "ended"
