"""The local Wattson: starts the modules of a workspace, runs them, and stops them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from pywatt_host.devservices.services import DevServices
from pywatt_host.exceptions import BindError
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.values import UnixAddress
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.orchestrator.acceptor import ModuleAcceptor
from pywatt_host.orchestrator.changed import ChangedModules, FileWatch
from pywatt_host.orchestrator.control import WorkspaceControl
from pywatt_host.orchestrator.dispatch import ModuleRequests
from pywatt_host.orchestrator.gateway import Gateway
from pywatt_host.orchestrator.gateway_log import GatewayHandler
from pywatt_host.orchestrator.launch import module_launch
from pywatt_host.orchestrator.manifests import ModuleManifests
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.paths import hidden_paths
from pywatt_host.orchestrator.ports import Ports
from pywatt_host.orchestrator.registry import ServiceRegistry
from pywatt_host.orchestrator.replica import Replica, Terms
from pywatt_host.orchestrator.rolling import RollingReload
from pywatt_host.orchestrator.rotations import Rotations
from pywatt_host.orchestrator.router import Router
from pywatt_host.orchestrator.sockets import bind_channels
from pywatt_host.orchestrator.start import Start
from pywatt_host.orchestrator.stores import Stores
from pywatt_host.orchestrator.topics import EventRouter
from pywatt_host.orchestrator.tracing import make_workspace_tracing
from pywatt_host.orchestrator.verdicts import ReloadRefusedError, Verdict
from pywatt_host.peers.connection import Dispatch
from pywatt_host.protocol.messages import EXTENSIONS, Init, IpcChannelOffer, TcpChannelOffer
from pywatt_host.runtime.certificates import Certificates, NoCertificates, TlsService
from pywatt_host.runtime.control import control_path
from pywatt_host.runtime.hangup import HangupSignal
from pywatt_host.runtime.signals import OtherSignals, StopSignals, ignored
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.service import first_cause
from pywatt_host.stores.kinds import StoreContext
from pywatt_host.stores.service import Datastores
from pywatt_host.supervision.condition import LoopCondition
from pywatt_host.supervision.launch import Launch
from pywatt_host.supervision.output import Output
from pywatt_host.types import ASGIApp

logger = logging.getLogger("pywatt.wattson")

_BOUNDS = Bounds()  # of the gateway and the control socket: the defaults of a manifest
_CONTROL_DRAIN = 1.0  # seconds for the last answers on the control socket


@dataclass(frozen=True, slots=True)
class Up:
    """What is reported once every module has started, or has failed to."""

    gateway: tuple[str, ...]
    modules: tuple[dict[str, Any], ...]


class Wattson:
    """A workspace that is ready to run, once. `manifests` are the manifests of its modules, which `reader` has loaded,
    and loads again for a reload."""

    def __init__(
        self,
        workspace: Workspace,
        reader: ModuleManifests,
        manifests: dict[str, Manifest],
        store: SecretStore,
        output: Output,
        environ: Mapping[str, str],
        masker: Masker,
        *,
        watch: FileWatch | None = None,
    ) -> None:
        """`masker` masks the secrets of `store`. `manifests` is kept up to date with what a reload has read. With
        `watch`, a module is reloaded when its files change, and one that does not start is tried again."""
        self.workspace = workspace
        self.name = workspace.directory.name or "wattson"
        self.modules: dict[str, Module] = {}
        self.router = Router(self.modules, workspace.timeouts.request)
        self.registry = ServiceRegistry(
            replicas=lambda: [each for module in self.modules.values() for each in module.replicas]
        )
        self.output = output
        self.rotations = Rotations(store, self._replicas)
        self.started = time.time()
        self._environ = environ
        self._reader = reader
        self._manifests = manifests
        self._store = store
        self._ports = Ports()
        self._topics = EventRouter()
        self._dev = DevServices(workspace.directory, environ)
        self.stores = self._make_stores()
        self._requests = ModuleRequests(
            self.modules, self.router, self.registry, self._ports, self._topics, self.rotations, store, self.stores
        )
        self._changes = LoopCondition()
        self._drain = Drain()
        self.tracing = make_workspace_tracing(workspace, environ, lambda: store.secret_values, masker, self._drain.left)
        self._stopping = False
        self._watch = watch
        self._start_fault = 0  # the exit code of a module that could not start for the first time
        self._opening: asyncio.Task[Any] | None = None  # while the stores open
        for id, declared in workspace.modules.items():
            output.declare(id, declared.replicas)
            replicas = [self._make_replica(id, number) for number in range(1, declared.replicas + 1)]
            manifest = manifests.get(id)
            self.modules[id] = Module(id, declared, replicas, hidden_paths(manifest), manifest)
        tls = list(workspace.declared_tls())
        self.certificates: TlsService = (
            Certificates(tls, workspace.resolve, lambda: store.secret_values) if tls else NoCertificates()
        )
        self._channels: dict[str, list[Listener]] = {}
        self._gateway_address: tuple[str, ...] = ()
        self._gateway: Gateway | None = None  # while the modules live
        self._rolling: RollingReload | None = None  # likewise

    def _make_stores(self) -> Stores:
        workspace = self.workspace
        if not workspace.databases and not workspace.caches:
            return Stores(None)
        datastores = Datastores(
            workspace.databases,
            workspace.caches,
            lambda: self._store.secret_values,
            StoreContext(workspace.directory, self.name, None, self._dev.url),
            start_period=workspace.timeouts.start,
            rotates=True,
        )
        self.rotations.dependants += datastores.dependants()
        return Stores(datastores, self.output.mask)

    def _terms(self, id: str) -> Terms:
        workspace = self.workspace
        times, declared = workspace.timeouts, workspace.modules[id]
        return Terms(
            id, declared.restart, times.start, times.stop, times.heartbeat, workspace.limits.heartbeat_missed,
            workspace.limits.frame, lambda: self._launch(id), self.output.mask,
        )  # fmt: skip

    def _launch(self, id: str) -> Launch:
        # No module gets a declared secret in its environment. Other names that a module has asked for stay there:
        # otherwise it could take PATH from all others.
        declared = self.workspace.modules[id]
        traces = self.tracing.variables(id, declared.env, ours=declared.manifest is not None)
        return module_launch(id, declared, self.workspace, self._environ, self._reader.secret_names, traces)

    def _make_replica(self, id: str, number: int, *, in_use: bool = True) -> Replica:
        return Replica(self._terms(id), number, self.output.label(id, number), self, in_use=in_use)

    def _replicas(self) -> list[Replica]:
        """All processes: the replicas, and during a reload those beside them."""
        return [replica for module in self.modules.values() for replica in module.processes]

    # What replicas need ---------------------------------------------------------------------------------------------

    def dispatch(self) -> Dispatch:
        return self._requests.dispatch

    def init(self, replica: Replica) -> Init:
        """The first message to a process. A module with a manifest gets port 0, and announces the real one; a command
        gets a free port, since it may announce what it was told."""
        declared = self.workspace.modules[replica.module]
        ipc, tcp = self._channels.get("ipc"), self._channels.get("tcp")
        port = 0 if declared.manifest is not None else self._ports.free(replica) or 0
        uses = declared.channel
        return Init(
            self._gateway_address[0],
            replica.module,
            dict(declared.env),
            f"127.0.0.1:{port}",
            TcpChannelOffer(tcp[0].address.removeprefix("http://")) if tcp and uses == "tcp" else None,
            IpcChannelOffer(ipc[0].address.removeprefix("unix:")) if ipc and uses == "ipc" else None,
            replica.token if uses != "stdio" else None,
            "Token" if uses != "stdio" else None,
            None,
            tuple(sorted(EXTENSIONS)),
        )

    def line(self, replica: Replica, data: bytes) -> None:
        if self._rolling is not None:
            self._rolling.line(replica, data)
        self.output.write(replica.module, replica.number, data)

    def changed(self) -> None:
        self.router.flush()
        self._changes.notify_all()

    def gone(self, replica: Replica) -> None:
        if self._gateway is not None:
            self._gateway.gone(replica)
        self.router.gone(replica)
        self.registry.gone(replica)
        self.rotations.gone(replica)
        self._topics.gone(replica)
        self._ports.gone(replica)
        self._requests.gone(replica)
        self.stores.gone(replica)

    # Running --------------------------------------------------------------------------------------------------------

    async def serve(self, on_up: Callable[[Up], None] = lambda up: None) -> int:
        """Run until a signal, `stop()` or the control socket ends it, or no module is left. Returns the exit code: 0
        where everything ended as asked, 1 where work was cut short or a module failed for good. Raises HostError where
        it cannot start; nothing is left behind then."""
        bound: list[Listener] = []
        loop = asyncio.get_running_loop()
        others: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGUSR1: partial(ignored, signal.SIGUSR1),
            signal.SIGUSR2: partial(ignored, signal.SIGUSR2),
        }
        with (
            StopSignals(self.stop, loop),
            HangupSignal(self._hung_up, self.stop, loop),
            OtherSignals(others, loop),
        ):
            try:
                workspace = self.workspace
                gateway = self._bind_gateway()
                bound += gateway
                kinds = frozenset(module.channel for module in workspace.modules.values())
                self._channels = bind_channels(kinds, self.name, workspace.directory, self._environ)
                bound += [listener for listeners in self._channels.values() for listener in listeners]
                control = self._bind_control()
                bound += control
                bound += self.tracing.bind()
                self._gateway_address = tuple(listener.address for listener in gateway)
                return await self._open_and_run(gateway, control, on_up)
            finally:
                for listener in bound:
                    listener.close()

    async def _open_and_run(self, *arguments: Any) -> int:
        """Fetch the secrets and open the stores, then run. A request to stop cancels all before the run."""
        self._opening = asyncio.current_task()
        try:
            await self._store.load()
            async with (
                TaskGroup() as tasks,
                self.certificates.running(tasks),
                self._dev.running(tasks),
                self.stores.running(tasks),
            ):
                self._opening = None
                return await self._run(*arguments)
        except BaseExceptionGroup as group:
            first = first_cause(group)
            raise first from first.__cause__
        except asyncio.CancelledError:
            if self._opening is None or not self._stopping:
                raise
            self._opening.uncancel()
            logger.info("stopped before any module was started")
            return 0

    async def _run(self, gateway: list[Listener], control: list[Listener], on_up: Callable[[Up], None]) -> int:
        acceptor = ModuleAcceptor(self._channels, self.modules, self.dispatch(), self.workspace.limits.frame)
        ended = Drain()
        async with TaskGroup() as tasks:
            rolling = self._rolling = RollingReload(
                self.modules, self.router, self._changes, tasks,
                make=lambda id, number: self._make_replica(id, number, in_use=False),
                load=self._load_again, stopping=lambda: self._stopping, mask=self.output.mask,
            )  # fmt: skip
            watching = [
                tasks.create_task(self.router.watch(), name="messages"),
                tasks.create_task(rolling.watch(), name="reload"),
                tasks.create_task(self.rotations.watch(self.workspace.secrets.interval), name="watch secrets"),
            ]
            if self._watch is not None:
                changed = ChangedModules(self.workspace.directory, self._watch.reloaded)
                watching.append(tasks.create_task(self._watch.run(changed.note), name="watch files"))
                watching.append(tasks.create_task(changed.reload(rolling), name="reload what changed"))
            async with AsyncExitStack() as stack:
                if control:
                    app = WorkspaceControl(self)
                    await stack.enter_async_context(_served("control", app, control, ended, tasks))
                    stack.callback(app.close)
                await stack.enter_async_context(self.tracing.running(tasks, ended))
                await stack.enter_async_context(acceptor.running(tasks))
                served = self._gateway = Gateway(
                    self.modules, self.workspace, self._gateway_address, lambda: rolling.refused,
                    self.certificates.check, self.tracing.tracer,
                )  # fmt: skip
                await stack.enter_async_context(self._living(tasks))
                stack.push_async_callback(served.close)
                handler = GatewayHandler(served, served.log.finished)
                await stack.enter_async_context(_served("gateway", handler, gateway, self._drain, tasks))
                tasks.create_task(self._starting(on_up), name="ready")
                await self._changes.wait_for(lambda: self._stopping or self._all_over())
                if not self._stopping:
                    self.stop("no module is left")
                ended.deadline = time.monotonic() + self.workspace.timeouts.stop + _CONTROL_DRAIN
            for task in watching:
                task.cancel()
        replicas = self._replicas()
        failed = any(replica.state == "failed" for replica in replicas)
        if self._start_fault:
            return self._start_fault
        return 1 if failed or self._drain.cut or any(replica.cut for replica in replicas) else 0

    def _all_over(self) -> bool:
        return all(replica.over for replica in self._replicas())

    @asynccontextmanager
    async def _living(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Start every module after those it depends on, and stop it before them."""
        living = {
            id: tasks.create_task(self._bring_up(module), name=f"module {id}") for id, module in self.modules.items()
        }
        try:
            yield
        finally:
            await asyncio.gather(*(self._bring_down(module) for module in self.modules.values()))
            await asyncio.gather(*living.values())

    async def _bring_up(self, module: Module) -> None:
        for id, dependency in module.declared.depends_on.items():
            other, condition = self.modules[id], dependency.condition
            await self._changes.wait_for(
                lambda other=other, condition=condition: self._stopping or other.meets(condition)  # type: ignore[misc]
            )
        if not self._stopping:
            await asyncio.gather(*(replica.live() for replica in module.replicas))

    async def _bring_down(self, module: Module) -> None:
        """Stop a module, once every module that depends on it has ended."""
        dependants = [other for other in self.modules.values() if module.id in other.declared.depends_on]
        await self._changes.wait_for(lambda: all(each.over for other in dependants for each in other.processes))
        await self.stop_module(module.id)
        self._changes.notify_all()

    async def stop_module(self, id: str) -> None:
        """Stop all processes of one module for good. Raises KeyError for an unknown module."""
        await asyncio.gather(*(replica.stop() for replica in self.modules[id].processes))

    async def _starting(self, on_up: Callable[[Up], None]) -> None:
        """Say that the workspace is ready once it is. A module that cannot start for the first time ends `up`."""
        logger.info(
            "the gateway listens on %s; starting %s", ", ".join(self._gateway_address), ", ".join(self.modules),
            extra={"event": "starting", "listen": list(self._gateway_address)},
        )  # fmt: skip
        start = Start(self.modules, ends_at_a_fault=self._watch is None)
        telling = asyncio.get_running_loop().create_task(start.tell_what_it_waits_for())
        try:
            await self._changes.wait_for(lambda: self._stopping or start.ready or start.fault is not None)
        finally:
            telling.cancel()
        if self._stopping:
            return
        if start.fault is not None:
            replica, self._start_fault = start.fault
            logger.critical(
                "%s could not start (%s); all modules are stopped", replica.label, replica.ending,
                extra={"peer": replica.label},
            )  # fmt: skip
            self.stop("a module could not start")
            return
        await asyncio.to_thread(self._dev.keep)  # so that a module that is started again finds its data
        on_up(Up(self._gateway_address, tuple(module.status() for module in self.modules.values())))

    def _bind_gateway(self) -> list[Listener]:
        """Bind the address of the gateway."""
        workspace = self.workspace
        bound = bind([workspace.gateway.listen], key="gateway.listen", directory=workspace.directory, backlog=2048)
        for listener in bound:
            listener.tls = self.certificates.listening.get("gateway.tls")
        return bound

    def _bind_control(self) -> list[Listener]:
        """Bind the control socket. A default one that cannot be bound is a warning, a declared one an error."""
        setting, directory = self.workspace.control, self.workspace.directory
        try:
            path = control_path(setting, self.name, directory, self._environ, "control")
            if path is None:
                return []
            return bind([UnixAddress(os.fspath(path))], key="control", directory=directory, backlog=128)
        except (BindError, OSError) as error:
            if setting != "auto":
                raise
            logger.warning("no control socket: %s", error, extra={"key": "control"})
            return []

    # Reloading ------------------------------------------------------------------------------------------------------

    async def reload(self, module: str | None = None) -> dict[str, Any]:
        """Replace the processes of one module, or of all, by processes that run the manifest and the code on disk, one
        replica after the other. `wattson.yaml` is not read again. Returns the verdict:
        `{"ok", "exit_code", "stage", "reason", "seconds", "modules": {id: {"ok", "generation", "stage", "exit_code",
        "reason", "seconds"}}}`. Raises KeyError for an unknown module."""
        if module is not None:
            self.modules[module]  # or KeyError
        if self._rolling is None or self._stopping:
            verdict = Verdict()
            verdict.refuse(ReloadRefusedError("up is stopping" if self._stopping else "up has not started yet"))
            return verdict.document()
        return await self._rolling.reload(module)

    def _hung_up(self) -> None:
        if self._rolling is not None:
            self._rolling.ask()

    def _load_again(self, ids: Iterable[str]) -> dict[str, Manifest]:
        """The manifests of these modules, as they are on disk. The secrets that they declare are withheld from the
        environment of every process from now on."""
        found = self._reader.load(ids)
        self._manifests.update(found)
        return found

    # Telling and stopping -------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """What `ps` shows, in the form in which single hosts answer."""
        modules = [module.status() for module in self.modules.values()]
        healthy = all(module["status"] == "healthy" for module in modules)
        return {
            "kind": "workspace",
            "module": {"id": self.name},
            "pid": os.getpid(),
            "started": self.started,
            "status": "draining" if self._stopping else "healthy" if healthy else "unhealthy",
            "listen": list(self._gateway_address),
            "tls": self.certificates.status(),
            "modules": modules,
            "messages": dict(self.router.counts),
            "reloading": self._rolling.progress if self._rolling is not None else None,
            "reload": self._rolling.last if self._rolling is not None else None,
        }

    def stop(self, why: str) -> None:
        """Begin to stop. A second call kills everything that still runs."""
        if self._stopping:
            logger.error("forced to stop; every module is killed")
            self._drain.deadline = time.monotonic()
            for replica in self._replicas():
                replica.cut = replica.cut or replica.pid is not None
                replica.kill("forced to stop")
            return
        self._stopping = True
        if self._opening is not None:
            self._opening.cancel()
        self._drain.deadline = time.monotonic() + self.workspace.timeouts.stop
        logger.info("stopping: %s", why)
        self._changes.notify_all()

    def asked_to_stop(self) -> None:
        """Begin to stop. A second call changes nothing."""
        if not self._stopping:
            self.stop("asked over the control socket")


@asynccontextmanager
async def _served(
    name: str, app: ASGIApp | GatewayHandler, listeners: list[Listener], drain: Drain, tasks: TaskGroup
) -> AsyncIterator[None]:
    async with HttpServer(name, app, listeners, _BOUNDS, drain).running(tasks):
        yield
