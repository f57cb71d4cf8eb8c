"""A generation: one state of manifest and code, with the secrets, the zygote and the workers that belong to it."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from pywatt_host.build.tracing import AnyTracing, NoTracing
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.manifest.values.names import Script
from pywatt_host.net.tls_material import TlsMaterial
from pywatt_host.observability.failing_checks import failing_checks
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.runtime.certificates import TlsService
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.supervision.process import describe_exit
from pywatt_host.workers.link import Load, WorkerSetup
from pywatt_host.workers.renewal import message_of
from pywatt_host.workers.worker import worker_manifest
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.worker_secrets import WorkerSecrets
from pywatt_host.workers.zygote_process import CodeImportError, WorkerStartError, ZygoteProcess

logger = logging.getLogger("pywatt.workers")


class Surroundings(Protocol):
    """What a generation needs of the supervisor to start a worker."""

    def new_worker(self, place: int, generation: int) -> WorkerProcess:
        """A worker with a key and a slot of its own."""

    async def open(self, worker: WorkerProcess) -> tuple[list[int], Callable[[], None]]:
        """Open the worker's connections. Returns the descriptors for it, and what closes the supervisor's copies."""

    def setup(self, worker: WorkerProcess) -> WorkerSetup: ...

    def worker_ended(self, key: int, code: int) -> None:
        """The process of a worker has ended."""


class Generation:
    """Starts the workers of one manifest. `start` imports the code, `start_worker` starts one worker."""

    def __init__(
        self,
        number: int,
        manifest: Manifest,
        rotation: Rotation,
        around: Surroundings,
        tls: TlsService,
        *,
        script: Script | None,
        environ: Mapping[str, str],
        tracing: AnyTracing | None = None,
        spans: StartSpans | None = None,
    ) -> None:
        """`manifest` is the whole one. `tls` has its certificates. `environ` is the environment for the workers.
        `tracing` sends their spans. `spans` are those of the start or the reload that a worker is started by."""
        self.number = number
        self.manifest = manifest
        self.count = manifest.server.workers.resolved()
        self.rotation = rotation
        self.tracing: AnyTracing = tracing or NoTracing()
        self.spans = spans or StartSpans()
        self.secrets = WorkerSecrets(rotation.store, lambda: self.workers)
        self.workers: list[WorkerProcess] = []  # that have not ended
        self.stack = AsyncExitStack()  # what ends with the generation
        self.tls = tls
        self._around = around
        self._script = script
        self._environ = dict(environ)
        self._zygote: ZygoteProcess | None = None
        self._parents: dict[WorkerProcess, ZygoteProcess] = {}
        self._spare: ZygoteProcess | None = None  # has imported the code and can become a worker
        self._stale = False  # whether `app.env` has changed since the zygote has imported the code
        self._importing = asyncio.Lock()
        for section, listening in tls.listening.items():
            listening.follow(partial(self._renewed, section))
        rotation.register(self.secrets)
        self.secrets.on_rotated = self._rotated

    # Code -----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Import the code. Raises WorkerStartError."""
        async with self._importing:
            await self._import()

    async def _import(self) -> None:
        """Start a process that has imported the code, and decide whether it may be forked."""
        start = self.manifest.server.workers.start
        self._stale = False  # a rotation meanwhile says so again
        try:
            zygote = await self._new_zygote()
        except BaseException:
            self._stale = True
            raise
        if start == "spawn" or (start == "auto" and (zygote.threads or sys.platform != "linux")):
            if start == "auto" and zygote.threads and not self._parents:
                logger.info(
                    "importing the application starts %d threads: its workers are spawned and not forked",
                    zygote.threads, extra={"key": "server.workers.start"},
                )  # fmt: skip
            if self._stale:
                zygote.close()
            else:
                self._spare = zygote
            return
        if zygote.threads:
            logger.warning(
                "importing the application starts %d threads, which its workers do not have", zygote.threads,
                extra={"key": "server.workers.start"},
            )  # fmt: skip
        before, self._zygote = self._zygote, zygote
        self._close_unused(before)

    async def _new_zygote(self) -> ZygoteProcess:
        limit = self.manifest.server.workers.start_limit
        load = Load(
            worker_manifest(self.manifest, self.count), self._environ, self._secrets_of_environment(), self._script
        )
        try:
            async with asyncio.timeout(limit):
                return await ZygoteProcess.start(load, self._around.worker_ended)
        except TimeoutError:
            text = f"the code was not imported within {limit:g}s (server.workers.start_limit)"
            raise CodeImportError(text, 3) from None

    def _templates(self) -> list[SecretTemplate]:
        manifest = self.manifest
        applications = [*([manifest.app] if manifest.app is not None else []), *manifest.mounts]
        values = [value for each in applications for value in getattr(each, "env", {}).values()]
        return [value for value in values if isinstance(value, SecretTemplate)]

    def _secrets_of_environment(self) -> dict[str, str]:
        names = {name for template in self._templates() for name in template.names}
        values = self.rotation.store.secret_values
        return {name: values[name] for name in names if name in values}

    def _rotated(self, names: frozenset[str]) -> None:
        """A process that starts from now on has to import the code with the new values."""
        if any(name in names for template in self._templates() for name in template.names):
            self._stale = True
            spare, self._spare = self._spare, None
            if spare is not None:
                spare.close()

    # Certificates ---------------------------------------------------------------------------------------------------

    @property
    def materials(self) -> dict[str, TlsMaterial]:
        """The certificates in use, by TLS section."""
        return {section: listening.terms.material for section, listening in self.tls.listening.items()}

    def _renewed(self, section: str) -> None:
        """Give a renewed certificate to all workers. Those that start later get it with their setup."""
        message = message_of(section, self.tls.listening[section].terms.material)
        for worker in self.workers:
            if worker.opened and worker.connection.open and not worker.connection.send(message):
                logger.error(
                    "%s: the renewed certificate did not reach %s, which keeps the old one (channels.limits.frame)",
                    section, worker.name, extra={"key": section, "worker": worker.place + 1},
                )  # fmt: skip

    # Workers --------------------------------------------------------------------------------------------------------

    async def start_worker(self, place: int, *, healthy: bool) -> WorkerProcess:
        """Start a worker and return it once it is ready to accept; with `healthy`, once its checks pass. Raises
        WorkerStartError; the worker has ended then."""
        limit = self.manifest.server.workers.start_limit
        worker = self._around.new_worker(place, self.number)
        self.workers.append(worker)
        try:
            async with asyncio.timeout(limit):
                await self._launch(worker)
                await worker.started
                if healthy:
                    await worker.passed
            if worker.state == "ended":
                raise self._failure(worker)
        except BaseException as error:
            worker.kill("it was not ready")
            if worker.pid is None:
                self._around.worker_ended(worker.key, 0)
            if isinstance(error, TimeoutError):
                if worker.pid is None and self._zygote is not None:
                    self._zygote.kill()  # it does not answer: the next worker has another one
                text = f"{worker.name} was not ready within {limit:g}s (server.workers.start_limit){_failing(worker)}"
                raise WorkerStartError(text, 3) from None
            if isinstance(error, OSError):
                raise WorkerStartError(f"{worker.name} cannot be started: {error.strerror or error}", 3) from error
            raise
        return worker

    async def _launch(self, worker: WorkerProcess) -> None:
        async with self._importing:
            while self._spare is None and (self._zygote is None or self._zygote.lost or self._stale):
                await self._import()
            spare, self._spare = self._spare, None
            zygote = spare or self._zygote
            assert zygote is not None
        descriptors, close = await self._around.open(worker)
        try:
            setup = self._around.setup(worker)
            if (place := self.spans.place) is not None:
                setup = replace(setup, traceparent=place.traceparent())
            worker.runs_as(await zygote.start_worker(worker.key, setup, descriptors, fork=spare is None))
        finally:
            close()
        self._parents[worker] = zygote

    def _failure(self, worker: WorkerProcess) -> WorkerStartError:
        told = worker.failure
        if told is not None:
            return WorkerStartError(f"{worker.name}: {told.message}", told.exit_code or 3, told.trace, reported=True)
        code = worker.ended.result()
        return WorkerStartError(
            f"{worker.name} ended before it was ready: {describe_exit(code)}", code if code in (2, 3, 4) else 3
        )

    def orphaned(self, worker: WorkerProcess) -> bool:
        """Whether the process that would tell of the end of a worker has ended itself."""
        parent = self._parents.get(worker)
        return parent is not None and parent.lost

    def forget(self, worker: WorkerProcess) -> None:
        """A worker has ended."""
        if worker in self.workers:
            self.workers.remove(worker)
        self._close_unused(self._parents.pop(worker, None))

    def _close_unused(self, zygote: ZygoteProcess | None) -> None:
        """End a process that has imported the code earlier, once it has no workers left."""
        if zygote is not None and zygote is not self._zygote and zygote not in self._parents.values():
            zygote.close()

    async def close(self) -> None:
        """End what belongs to the generation. Its workers have ended."""
        for zygote in (self._zygote, self._spare):
            if zygote is not None:
                zygote.close()
        await self.stack.aclose()

    def kill(self) -> None:
        """Kill its workers."""
        for worker in tuple(self.workers):
            worker.kill("the host ends")

    def kill_processes(self) -> None:
        """Kill its workers and what has imported its code, without waiting and without the event loop."""
        for worker in tuple(self.workers):
            worker.kill("the host ends")
        for zygote in {self._zygote, self._spare, *self._parents.values()}:
            if zygote is not None:
                zygote.kill()

    def status(self) -> dict[str, Any]:
        """What `ps` shows."""
        return {"generation": self.number, "workers": [worker.status() for worker in self.workers]}


def _failing(worker: WorkerProcess) -> str:
    """The checks of a worker that do not pass, for an error."""
    failing = failing_checks(worker.report)
    return f": {failing}" if failing else ""
