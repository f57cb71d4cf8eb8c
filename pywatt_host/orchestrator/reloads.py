"""Reloads of the modules of `up`: each replica in turn, asked over its own control socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Manifest
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.runtime.control import control_folders
from pywatt_host.runtime.control_client import LONGEST_RELOAD, RefusedError, ask

logger = logging.getLogger("pywatt.wattson")


class Reloads:
    """Reloads modules, one after the other, and the replicas of each one after the other. The first replica that
    refuses ends the reload of its module, so that the other replicas serve on with what they have."""

    def __init__(
        self, modules: Mapping[str, Module], manifests: Mapping[str, Manifest], environ: Mapping[str, str]
    ) -> None:
        """`manifests` are those of the modules that have one, as they were when `up` started."""
        self._modules = modules
        self._manifests = manifests
        self._environ = environ
        self._one_at_a_time = asyncio.Lock()
        self.requested = asyncio.Event()  # set by SIGHUP

    async def reload(self, module: str = "") -> dict[str, Any]:
        """Reload a module, or all. Returns `{"ok", "exit_code", "modules"}`, with a verdict for each module. Raises
        HostError for an unknown module."""
        if module and module not in self._modules:
            raise HostError(f"There is no module {module}.")
        async with self._one_at_a_time:
            verdicts = {id: await self._module(self._modules[id]) for id in ([module] if module else self._modules)}
        codes = [int(verdict["exit_code"]) for verdict in verdicts.values()]
        return {"ok": not any(codes), "exit_code": max(codes), "modules": verdicts}

    async def watch(self) -> None:
        """Reload all modules each time that it is requested, and log the verdicts. Runs until it is cancelled."""
        while True:
            await self.requested.wait()
            self.requested.clear()
            for id, verdict in (await self.reload())["modules"].items():
                if verdict["ok"]:
                    generation = verdict.get("generation")
                    logger.info("%s: generation %s is in use", id, generation, extra={"peer": id})
                else:
                    logger.warning("%s was not reloaded: %s", id, verdict.get("reason"), extra={"peer": id})

    async def _module(self, module: Module) -> dict[str, Any]:
        verdict = _refused("no process of the module is running")
        for replica in module.replicas:
            if replica.pid is None:
                continue
            verdict = {**await self._replica(module, replica), "replica": replica.number}
            if not verdict["ok"]:
                break
        return verdict

    async def _replica(self, module: Module, replica: Replica) -> dict[str, Any]:
        path = self._control_path(module, replica)
        if path is None:
            return _refused("the module has no control socket (server.control: off, or it is a command)")
        try:
            verdict = await asyncio.to_thread(ask, path, "POST", "/reload", {}, LONGEST_RELOAD)
        except RefusedError as error:
            return _refused(str(error))
        except OSError as error:
            return _refused(f"the module did not answer at {path}: {error.strerror or error}")
        code = verdict.get("exit_code")
        ok = verdict.get("ok") is True
        return {**verdict, "ok": ok, "exit_code": 0 if ok else code if code in (2, 3) else 1}

    def _control_path(self, module: Module, replica: Replica) -> Path | None:
        manifest = self._manifests.get(module.id)
        if manifest is None or manifest.server.control == "off":
            return None
        if manifest.server.control == "auto":
            return control_folders(manifest.directory, self._environ)[0] / f"{module.id}-{replica.pid}.sock"
        return manifest.resolve(manifest.server.control)


def _refused(reason: str) -> dict[str, Any]:
    return {"ok": False, "stage": "", "exit_code": 1, "reason": reason}
