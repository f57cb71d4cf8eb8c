"""The rolling reload of `up`: one replica after the other is replaced by a process that runs what is on disk now."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pywatt_host.exceptions import HostError, ManifestError
from pywatt_host.manifest.model import Manifest
from pywatt_host.observability.running_clock import running_timeout
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.paths import hidden_paths
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.start_faults import last_words
from pywatt_host.orchestrator.verdicts import MANIFEST_FAULT, START_FAULT, ReloadRefusedError, Verdict
from pywatt_host.supervision.condition import LoopCondition
from pywatt_host.supervision.reading import SlowReadError, read_aside

logger = logging.getLogger("pywatt.wattson")

_KEPT_LINES = 40  # of a process that starts
_TAKEN_HINT = (
    "The new process runs beside the one that it replaces, so a module with a fixed address cannot be reloaded. Give it"
    " port 0, or stop up and start it again."
)


class RollingReload:
    """Reloads modules, one reload at a time. `progress` is what happens now, `last` the verdict of the last reload."""

    def __init__(
        self,
        modules: Mapping[str, Module],
        router: Router,
        changes: LoopCondition,
        tasks: TaskGroup,
        *,
        make: Callable[[str, int], Replica],
        load: Callable[[Iterable[str]], Mapping[str, Manifest]],
        stopping: Callable[[], bool],
        mask: Callable[[str], str],
    ) -> None:
        """`make` makes a replica that is not in use, `load` the manifests of these modules (raises ManifestError), and
        `stopping` says whether `up` stops. `mask` removes secrets from reasons."""
        self.progress: dict[str, Any] | None = None
        self.last: dict[str, Any] | None = None
        self._modules = modules
        self._router = router
        self._changes = changes
        self._tasks = tasks
        self._make = make
        self._load = load
        self._stopping = stopping
        self._mask = mask
        self._one_at_a_time = asyncio.Lock()
        self._asked = asyncio.Event()
        self._only: str | None = None  # the module of the reload that runs now, if that is not one of all modules
        self._given_up = ""  # why the reload that runs now is to end
        self._said: dict[Replica, deque[bytes]] = {}  # the last lines of processes that start

    @property
    def refused(self) -> bool:
        """Whether the last reload was refused."""
        return self.last is not None and not self.last["ok"]

    # Asking -----------------------------------------------------------------------------------------------------------

    def ask(self) -> None:
        """Reload all modules, after the reload that runs now. Asking again before that one begins changes nothing."""
        self._asked.set()

    def give_up(self, module: str, why: str) -> None:
        """End the reload of this module alone that runs now, unless a process that it started is already in use. What
        it would replace stays as it is. Without such a reload this does nothing."""
        if self._only == module:
            self._given_up = why
            self._changes.notify_all()

    async def watch(self) -> None:
        """Run the reloads that `ask` asks for, for as long as this is awaited."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self.reload(None)

    async def reload(self, only: str | None) -> dict[str, Any]:
        """Reload one module, or all in the order of their dependencies, and return the verdict. The first module that
        cannot be reloaded ends the reload: it and all after it stay as they were. Raises KeyError for an unknown
        module."""
        ids = [self._modules[only].id] if only is not None else in_order(self._modules)
        async with self._one_at_a_time:
            began, verdict = time.monotonic(), Verdict()
            self._only, self._given_up = only, ""
            logger.info("reloading %s", only or "all modules")
            try:
                await self._reload(ids, verdict, alone=only is not None)
            finally:
                self.progress = self._only = None
            verdict.seconds = time.monotonic() - began
            if verdict.ok:
                logger.info("reloaded %s in %.1fs", ", ".join(ids), verdict.seconds)
            elif self._given_up and (verdict.reason or "").endswith(self._given_up):
                logger.info("the reload of %s is given up, because %s", only or "all modules", self._given_up)
            else:
                logger.error("the reload was refused: %s", verdict.reason, extra={"stage": verdict.stage})
            self.last = verdict.document()
            return self.last

    async def _reload(self, ids: list[str], verdict: Verdict, *, alone: bool) -> None:
        manifests: dict[str, Manifest] = {}
        for id in ids:  # all of them before any process is started
            try:
                manifests.update(await read_aside(partial(self._load, (id,))))  # a Python file takes its time
            except ManifestError as error:
                refused = ReloadRefusedError("\n".join(map(str, error.problems)), MANIFEST_FAULT, "manifest")
            except SlowReadError as error:
                refused = ReloadRefusedError(str(error), MANIFEST_FAULT, "manifest")
            except HostError as error:  # a Python file in place of a manifest cannot be imported
                why = "\n".join([str(error), *getattr(error, "__notes__", ())])  # with the traceback
                refused = ReloadRefusedError(why, START_FAULT, "start")
            else:
                continue
            refused.reason = self._mask(refused.reason)
            verdict.kept(id, self._modules[id].generation, refused)
            if verdict.ok:
                verdict.refuse(refused)
        waiting = {replica for id in ids for replica in self._modules[id].replicas if replica.state == "waiting"}
        for id in ids if verdict.ok else ():
            module, began = self._modules[id], time.monotonic()
            try:
                note = await self._roll(module, manifests.get(id), waiting, alone=alone)
            except ReloadRefusedError as error:
                error.reason = self._mask(error.reason)
                verdict.kept(id, module.generation, error, time.monotonic() - began)
                error.reason = f"{id}: {error.reason}"
                verdict.refuse(error)
                break
            verdict.reloaded(id, module.generation, note, time.monotonic() - began)
        for id in ids:
            if id not in verdict.modules:
                stage, code = verdict.stage or "start", verdict.exit_code
                beside = ReloadRefusedError("it was not reloaded, because another module could not be", code, stage)
                verdict.kept(id, self._modules[id].generation, beside)

    # One module -------------------------------------------------------------------------------------------------------

    async def _roll(
        self, module: Module, manifest: Manifest | None, waiting: set[Replica], *, alone: bool
    ) -> str | None:
        """Replace the replicas of a module in turn. Returns a remark, or None. Raises ReloadRefusedError."""
        hidden, before = hidden_paths(manifest), module.hidden
        replaced, left_alone = 0, 0
        module.hidden = hidden | before  # while replicas of both kinds answer
        secrets = module.granted(manifest)
        try:
            for old in module.replicas:
                if self._stopping():
                    raise ReloadRefusedError("up is stopping")
                self.progress = {"module": module.id, "replica": old.number, "since": time.time()}
                if old in waiting:
                    old.secrets = secrets
                    await self._starts(module, old)
                elif old.state == "ended" and not alone:
                    left_alone += 1
                else:
                    await self._replace(module, old, secrets)
                replaced += old not in module.replicas
        except ReloadRefusedError as error:
            if replaced:
                error.reason = f"{error.reason}\n{replaced} of {len(module.replicas)} replicas run the new code"
            raise
        finally:
            module.hidden = hidden if replaced == len(module.replicas) else module.hidden if replaced else before
        if left_alone == len(module.replicas):
            return "it has ended, and was not started again"
        module.generation += 1
        return None

    async def _starts(self, module: Module, replica: Replica) -> None:
        """Wait for a replica that had not started when the reload began, and so starts with what is on disk now."""
        needed = module.declared.depends_on.items()
        missing = [id for id, dependency in needed if not self._modules[id].meets(dependency.condition)]
        if missing:
            raise ReloadRefusedError(f"it has not started yet: it waits for {', '.join(missing)} (depends_on)")
        await self._healthy(replica)

    async def _replace(self, module: Module, old: Replica, secrets: frozenset[str]) -> None:
        """Start a successor that may ask for these secrets, use it once it is healthy, and stop `old`. `old` stays in
        use on ReloadRefusedError."""
        successor = self._make(module.id, old.number)
        successor.secrets = secrets
        module.add_beside(successor)
        self._said[successor] = deque(maxlen=_KEPT_LINES)
        living = self._tasks.create_task(successor.live(), name=f"successor of {old.label}")
        try:
            await self._healthy(successor)
        except BaseException:
            successor.discard("the reload has failed")
            await asyncio.wait((living,))
            module.remove(successor)
            raise
        finally:
            del self._said[successor]
        previous = old.pid
        module.swap(old, successor)
        logger.info(
            "%s: process %s is in use, process %s drains", old.label, successor.pid, previous, extra={"peer": old.label}
        )
        self._router.flush()
        self._changes.notify_all()
        await self._retire(module, old)

    async def _healthy(self, replica: Replica) -> None:
        """Wait until a replica is healthy, for `timeouts.start` at most. Raises ReloadRefusedError."""
        limit = replica.terms.start
        try:
            async with running_timeout(limit):
                await self._changes.wait_for(
                    lambda: self._stopping() or replica.healthy or replica.over or bool(self._given_up)
                )
        except TimeoutError:
            if replica.announce is None:
                why = f"no announce within {limit:g}s (timeouts.start)"
            else:
                why = f"it announced itself, but was not healthy within {limit:g}s (timeouts.start)"
                checks = (replica.health or {}).get("checks")
                why += f": {checks}" if checks else ""
            raise ReloadRefusedError("\n".join([why, *self._words(replica)])) from None
        if self._stopping():
            raise ReloadRefusedError("up is stopping")
        if self._given_up and not replica.healthy:
            raise ReloadRefusedError(self._given_up)
        if replica.over:
            ending = replica.ending
            code = MANIFEST_FAULT if ending is not None and ending.code == MANIFEST_FAULT else START_FAULT
            stage = "manifest" if code == MANIFEST_FAULT else "start"
            words = self._words(replica)
            how = f"the new process did not start ({ending if ending is not None else 'it was stopped'})"
            raise ReloadRefusedError("\n".join([how, *words]), code, stage)

    async def _retire(self, module: Module, old: Replica) -> None:
        """Stop a replica that was replaced. A host of this package drains by itself; another program may end at once
        when it is told to, so its open requests are waited for, for `timeouts.stop` at most."""
        if module.declared.manifest is None:
            try:
                async with running_timeout(old.terms.stop):
                    await self._changes.wait_for(
                        lambda: self._stopping() or old.over or not (old.requests or self._router.busy(old))
                    )
            except TimeoutError:
                logger.warning(
                    "%s is stopped while %d of its requests are open (timeouts.stop)", old.label, old.requests,
                    extra={"peer": old.label},
                )  # fmt: skip
        await old.stop()
        module.remove(old)
        self._changes.notify_all()

    # What processes say -----------------------------------------------------------------------------------------------

    def line(self, replica: Replica, data: bytes) -> None:
        """Keep a line of a process that starts, for the reason of a refusal."""
        kept = self._said.get(replica)
        if kept is not None:
            kept.append(data)

    def _words(self, replica: Replica) -> list[str]:
        words = last_words(self._said.get(replica, ()))
        return [*words, _TAKEN_HINT] if any("in use" in line for line in words) else words


def in_order(modules: Mapping[str, Module]) -> list[str]:
    """The ids of all modules, each after those that it depends on."""
    ordered: dict[str, None] = {}

    def add(id: str) -> None:
        if id not in ordered:
            for dependency in modules[id].declared.depends_on:
                add(dependency)
            ordered[id] = None

    for id in modules:
        add(id)
    return list(ordered)
