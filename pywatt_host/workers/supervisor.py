"""The supervisor of a host with workers: it holds everything that the host has once, and never imports the application.

It binds the sockets, does the handshake, fetches secrets, keeps the channels, answers probes and metrics, and starts,
watches, replaces and reloads the workers, which speak the wire protocol with it as with an orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pywatt_host.auth.none import NoSchemes
from pywatt_host.build.host_metrics import Values
from pywatt_host.build.none import NoChannels
from pywatt_host.build.parts import identity_of
from pywatt_host.exceptions import BindError, HostError
from pywatt_host.http.server.server import HttpServer
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import Address, UnixAddress
from pywatt_host.net.descriptors import descriptors_needed, raise_descriptor_limit
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.net.shared_limits import SharedLimits
from pywatt_host.observability.health import Checks
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.metrics import Family, Histogram
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.runtime.control import ControlApp, control_path
from pywatt_host.runtime.host import Ready, bounds_of
from pywatt_host.runtime.lifecycle import Lifecycle, lifecycle
from pywatt_host.runtime.manifest_answer import manifest_answer
from pywatt_host.runtime.phases import Phase, PhasedService
from pywatt_host.runtime.shutdown import Shutdown
from pywatt_host.runtime.signals import HangupSignal, OtherSignals, StopSignals, ignored
from pywatt_host.runtime.systemd import Notifier, notifier
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.secrets.sources import make_sources
from pywatt_host.workers.admin import AdminServers, HostPathsOfNow, close_listeners
from pywatt_host.workers.channel_requests import ChannelRequestsToWorkers
from pywatt_host.workers.distributor import Distributor
from pywatt_host.workers.generation import AppInit, Generation
from pywatt_host.workers.health import HostHealth, WorkerHealth
from pywatt_host.workers.host_paths import SupervisorMetrics, SupervisorPaths
from pywatt_host.workers.link import WorkerSetup
from pywatt_host.workers.outside import Outside
from pywatt_host.workers.places import Change, ListeningSockets
from pywatt_host.workers.pool import WorkerPool
from pywatt_host.workers.registrations import Registrations
from pywatt_host.workers.reloading import Reloading
from pywatt_host.workers.requests import WorkerRequests
from pywatt_host.workers.routing import WorkerRouting
from pywatt_host.workers.watching import look, watch, watched_paths
from pywatt_host.workers.worker_process import WorkerProcess
from pywatt_host.workers.zygote_process import environment_of_workers

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.manifest.values.names import Script

logger = logging.getLogger("pywatt.host")

_PULL_INTERVAL = 2.0  # seconds between two looks at the metrics of workers
_STOP_GRACE = 0.2  # seconds after the shutdown limit that workers get to leave by themselves


class Supervisor:
    """A host whose application runs in workers. `serve` runs it until it is stopped."""

    def __init__(
        self,
        manifest: Manifest,
        load: Callable[[], Manifest],
        *,
        environ: Mapping[str, str],
        stream: LogStream,
        handshake: Handshake | None = None,
        trace: Path | None = None,
        script: Script | None = None,
        env_file: Path | None = None,
        relogged: Callable[[Manifest], None] = lambda manifest: None,
    ) -> None:
        """`load` reads the manifest anew for a reload. `script` is the Python file with the decorated function that the
        manifest comes from. `relogged` applies the logging settings of a manifest. Raises ChannelError for channels
        that cannot be made, OSError for a trace that cannot be written."""
        if handshake is not None:
            environ = {**environ, **handshake.init.env}
        self.manifest = manifest
        self._environ = environ
        self._script = script
        self._env_file = env_file
        self._seen = look(self._watched())  # now, since the manifest and the secrets may change while the host starts
        self._relogged = relogged
        self._created = time.time()
        self._masker = Masker()
        stream.mask_with(self._masker.mask_bytes)
        self.shutdown = Shutdown(manifest.server.timeouts, before_exit=self._kill_all)
        self.checks = Checks(manifest.health, identity_of(manifest), self._masker.mask)
        self._shared = SharedLimits.create()
        self._sockets = ListeningSockets()
        self._pool = WorkerPool(joined=self._joined, left=self._left, vanished=self._vanished)
        self.health = HostHealth(
            self.checks, self._health_of_workers, lambda: self._pool.wanted, lambda: self._pool.looping
        )
        self._metrics = SupervisorMetrics(self._pool.all, self._families)
        self._schemes: Schemes | NoSchemes = NoSchemes()
        self._paths = SupervisorPaths(lambda: self.manifest, self.health, self._metrics, lambda: self._schemes)
        app = HostPathsOfNow(self._paths.table)
        self._admin = AdminServers(app, bounds_of(manifest), self.shutdown.drain)
        self._stand_in = HttpServer("stand-in", app, (), bounds_of(manifest), self.shutdown.drain)
        self._change: tuple[int, Change] | None = None  # sockets for a generation that is not in use yet
        self._distributor: Distributor
        self._channels = self._make_channels(handshake, trace)
        outside = Outside(self._channels)
        self._registrations = Registrations(manifest.module_id, self._channels.discovery)
        self._routing = WorkerRouting(manifest.module_id, outside, self._pool.candidates, outside.subscribe)
        self._requests = WorkerRequests(
            module_id=manifest.module_id,
            routing=self._routing,
            registrations=self._registrations,
            upstream=outside,
            secrets=self._secrets_of,
            snapshot=self._metrics.update,
            host_path=self._paths.for_worker,
            healthy=lambda: self.health.report()[0] == 200,
        )
        self._app_init = _app_init(manifest, environ, handshake)
        self._by_key: dict[int, WorkerProcess] = {}
        self._next_key = 0
        self._next_generation = 0
        self._tasks: TaskGroup | None = None
        self._systemd: Notifier | None = None
        self._reloads = {"success": 0, "error": 0}
        self.reloading = Reloading(
            load,
            lambda: (self._generation.number, self.manifest),
            self._put_to_use,
            self._begun,
            self._told,
            self._masker.mask,
        )

    @property
    def _generation(self) -> Generation:
        assert self._pool.current is not None
        return self._pool.current

    # Parts ----------------------------------------------------------------------------------------------------------

    def _make_channels(self, handshake: Handshake | None, trace: Path | None) -> HostChannels | NoChannels:
        """The channels that the host has once: to the orchestrator, and those where other modules connect."""
        channels = self.manifest.channels
        if handshake is None and channels.ipc is None and channels.tcp is None:
            return NoChannels(self.manifest.module_id)
        services = self.manifest.services.model_copy(update={"static": (), "register_": ()})
        manifest = self.manifest.model_copy(
            update={"channels": channels.model_copy(update={"http": None, "nats": None}), "services": services}
        )
        app = ChannelRequestsToWorkers(self._pool.candidates, lambda: self.manifest.server.timeouts.request)
        made: HostChannels = import_module("pywatt_host.build.channels").HostChannels(
            manifest,
            handshake,
            app=lambda: app,
            health=self._heartbeat,
            stop=self.shutdown.request,
            orchestrator_lost=self.shutdown.orchestrator_lost,
            secret_values=self._secret_values,
            masker=self._masker,
            trace=trace,
            take=self._take,
        )
        made.on_rotation(self._rotated)
        made.on_event(self._event)
        return made

    def _heartbeat(self) -> dict[str, Any]:
        return self.health.heartbeat()

    def _take(self, incoming: Any) -> None:
        self._routing.take(incoming)

    def _event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        self._routing.event(topic, source, payload, channel, vouched_by)

    def _secret_values(self) -> Mapping[str, str]:
        return self._pool.current.rotation.store.secret_values if self._pool.current is not None else self._loading

    _loading: Mapping[str, str] = {}

    async def _rotated(self, rotation_id: str, names: Sequence[str]) -> str:
        return await self._generation.rotation.rotated(rotation_id, names)

    def _secrets_of(self, generation: int) -> Any:
        return next(each.secrets for each in self._pool.generations if each.number == generation)

    def _new_generation(self, manifest: Manifest) -> Generation:
        self._next_generation += 1
        secrets = manifest.secrets
        sources = make_sources(
            secrets.sources, directory=manifest.directory, environ=self._environ, fetch=self._channels.fetch
        )
        rotation = Rotation(
            SecretStore(manifest.secret_keys, sources, self._masker), rotate=secrets.rotate, interval=secrets.interval
        )
        rotation.register(*self._channels.dependants())
        return Generation(
            self._next_generation,
            manifest,
            rotation,
            self,
            script=self._script,
            environ=environment_of_workers(dict(self._environ)),
        )

    # What generations need (`generation.Surroundings`) --------------------------------------------------------------

    def new_worker(self, place: int, generation: int) -> WorkerProcess:
        self._next_key += 1
        slot = self._shared.assign()
        worker = WorkerProcess(
            self._next_key, place, slot, generation, connections=self._shared.connections, alone=self._shared.alone,
            changed=self._changed,
        )  # fmt: skip
        self._by_key[worker.key] = worker
        return worker

    async def open(self, worker: WorkerProcess) -> tuple[list[int], Callable[[], None]]:
        theirs, theirs_passing = await worker.open(self._requests.dispatch, self.manifest.channels.limits.frame)
        sockets = [sock for _, sock in self._sockets_for(worker).of_place(worker.place)]
        descriptors = [theirs.fileno(), theirs_passing.fileno(), self._shared.descriptor]
        descriptors += [sock.fileno() for sock in sockets]

        def close() -> None:
            theirs.close()
            theirs_passing.close()

        return descriptors, close

    def _sockets_for(self, worker: WorkerProcess) -> ListeningSockets | Change:
        """The sockets that a worker accepts from: those in use, or those for its generation."""
        if self._change is not None and self._change[0] == worker.generation:
            return self._change[1]
        return self._sockets

    def setup(self, worker: WorkerProcess) -> WorkerSetup:
        init, sockets = self._app_init, self._sockets_for(worker)
        return WorkerSetup(
            worker.place,
            worker.slot,
            worker.generation,
            sockets.addresses,
            tuple(number for number, _ in sockets.of_place(worker.place)),
            init.auth_token,
            init.orchestrator_api,
            dict(init.env),
            init.listen,
        )

    def worker_ended(self, key: int, code: int) -> None:
        worker = self._by_key.pop(key, None)
        if worker is None:
            return
        joined = worker.joined
        worker.has_ended(code)
        if joined:
            self._distributor.lost(worker)
        self._shared.clear(worker.slot)
        self._metrics.ended(worker)
        self._routing.gone(worker)
        self._requests.gone(worker)
        self._registrations.gone(worker)
        for generation in self._pool.generations:
            generation.secrets.gone(worker)
        self._pool.ended(worker)

    def _changed(self, worker: WorkerProcess) -> None:
        if not worker.ended.done():
            self._shared.set_aside(worker.slot, not worker.responsive)
        if worker.joined:
            self._distributor.changed()

    def _joined(self, worker: WorkerProcess) -> None:
        worker.joined = True
        self._distributor.join(worker)

    def _left(self, worker: WorkerProcess) -> None:
        self._distributor.leave(worker)

    def _vanished(self, worker: WorkerProcess) -> None:
        # How it ended is not known. One that drains closes its connection when its work is done.
        self.worker_ended(worker.key, 0 if worker.state == "draining" else -signal.SIGKILL)

    def _kill_all(self) -> None:
        """The process is about to end at once: nobody would stop the workers afterwards. This may run in a signal
        handler, or in another thread."""
        for generation in tuple(self._pool.generations):
            generation.kill_processes()

    # Health and metrics ---------------------------------------------------------------------------------------------

    def _health_of_workers(self) -> list[WorkerHealth]:
        current = self._pool.current
        workers = [each for each in current.workers if not each.replaced] if current is not None else []
        return [WorkerHealth(worker.name, worker.responsive, worker.report) for worker in workers]

    def _families(self) -> Iterator[Family | Histogram]:
        workers = self._pool.accepting()
        states = dict.fromkeys(("starting", "ready", "accepting", "draining"), 0.0)
        for worker in self._pool.all():
            if worker.state in states:
                states[worker.state] += 1
        restarts: Values = {
            (reason,): float(self._pool.restarts[reason]) for reason in ("ended", "blocked", "recycled")
        }
        yield Family("counter", "pywatt_worker_restarts", "Workers that were replaced.", ("reason",), restarts)
        yield Family("gauge", "pywatt_generation", "The generation in use.", (), {(): float(self._next_used)})
        yield Family(
            "gauge",
            "pywatt_workers",
            "Workers by state.",
            ("state",),
            {(name,): number for name, number in states.items()},
        )
        reloads: Values = {(result,): float(number) for result, number in self._reloads.items()}
        yield Family("counter", "pywatt_reloads", "Reloads, by result.", ("result",), reloads)
        ages: Values = {(str(worker.place + 1),): worker.age for worker in workers}
        yield Family("gauge", "pywatt_worker_age_seconds", "Seconds since a worker started.", ("worker",), ages)
        memory: Values = {
            (str(worker.place + 1),): float(found)
            for worker in workers
            if (found := self._pool.memory(worker)) is not None
        }
        yield Family("gauge", "pywatt_worker_memory_bytes", "Memory that a worker has alone.", ("worker",), memory)
        for family in self._channels.families():
            if family.name != "pywatt_messages":  # the workers count them
                yield family
        if self._pool.current is not None:
            counts = self._pool.current.rotation.counts
            rotations: Values = {(result,): float(counts[result]) for result in ("success", "error")}
            yield Family(
                "counter", "pywatt_secret_rotations", "Rotations of secrets, by result.", ("result",), rotations
            )

    @property
    def _next_used(self) -> int:
        return self._pool.current.number if self._pool.current is not None else 0

    def status(self) -> dict[str, Any]:
        """What the control socket answers."""
        _, report = self.health.report()
        return {
            **identity_of(self.manifest),
            "pid": os.getpid(),
            "started": round(self._created, 3),
            "manifest": os.fspath(self.manifest.source) if self.manifest.source else None,
            "status": "draining" if self.checks.draining else report["status"],
            "checks": report["checks"],
            "generation": self._next_used,
            "reloading": {"module": self.manifest.module_id} if self.reloading.under_way else None,
            "reload": self.reloading.last,
            "workers": [worker.status() for worker in self._pool.all()],
            "listen": self._sockets.addresses,
        }

    # Running --------------------------------------------------------------------------------------------------------

    async def serve(self, on_ready: Callable[[Ready], None] = lambda ready: None) -> int:
        """Serve until a signal, the control socket or the orchestrator stops the host. Returns the exit code: 0 where
        all work was done, 1 where some was cut, 5 where the orchestrator was lost. Raises HostError where the host
        cannot start; nothing is left behind then. The process belongs to the host."""
        loop = asyncio.get_running_loop()
        self.shutdown.watch(ends_process=True)
        limits = self.manifest.server.limits
        raise_descriptor_limit(descriptors_needed(limits.connections, limits.concurrency))
        try:
            with (
                self._bound() as control,
                StopSignals(self.shutdown.stop),
                HangupSignal(self._signalled, self.shutdown.request, loop),
                OtherSignals({each: partial(ignored, each) for each in (signal.SIGUSR1, signal.SIGUSR2)}, loop),
                self.shutdown.cancels_start(),
            ):
                await self._run(control, on_ready)
        except HostError:
            self.shutdown.start_failed()
            raise
        finally:
            await self._pool.close()
            self._shared.close()
        return self.shutdown.exit_code

    @contextmanager
    def _bound(self) -> Iterator[list[Listener]]:
        """All sockets of the host, bound; they are closed when the block ends. Raises BindError and ChannelError."""
        with ExitStack() as stack:
            stack.callback(self._sockets.close)
            stack.callback(self._roll_back)
            self._prepare_sockets(self.manifest, 1)
            control = self._bind_control()
            for listener in control:
                stack.callback(listener.close)
            stack.callback(self._channels.close)
            self._channels.bind()
            yield control

    def _prepare_sockets(self, manifest: Manifest, generation: int) -> Change:
        """Bind the sockets of a manifest, for a generation that is not in use yet. Raises BindError."""
        server = manifest.server
        change = self._sockets.prepare(
            server.listen,
            key="server.listen",
            places=server.workers.resolved(),
            directory=manifest.directory,
            backlog=server.limits.backlog,
            environ=dict(self._environ),
        )
        self._change = generation, change
        return change

    def _roll_back(self) -> None:
        """Close sockets that were bound for a generation that is not put to use."""
        change, self._change = self._change, None
        if change is not None:
            change[1].rollback()

    def _commit(self) -> None:
        """Put the sockets to use that were bound for a generation. Raises BindError."""
        assert self._change is not None
        self._change[1].commit()
        self._change = None

    def _bind_control(self) -> list[Listener]:
        """The control socket. Where it cannot be bound, `server.control: auto` logs a warning, a path raises
        BindError."""
        setting, directory = self.manifest.server.control, self.manifest.directory
        try:
            path = control_path(setting, self.manifest.module_id, directory, self._environ)
            if path is None:
                return []
            backlog = self.manifest.server.limits.backlog
            return bind([UnixAddress(os.fspath(path))], key="server.control", directory=directory, backlog=backlog)
        except (BindError, OSError) as error:
            if setting != "auto":
                raise
            logger.warning("no control socket: %s", error, extra={"key": "server.control"})
            return []

    async def _run(self, control: list[Listener], on_ready: Callable[[Ready], None]) -> None:
        channels = self._channels
        self._systemd = notifier(self._environ)
        async with lifecycle(self.shutdown) as running, TaskGroup() as tasks:
            self._tasks = tasks
            background: list[asyncio.Task[Any]] = []
            try:
                await running.start([PhasedService(Phase.CHANNELS, channels)])
                generation = self._new_generation(self.manifest)
                await self._load_secrets(generation, tasks)
                self._schemes = await self._schemes_of(generation, tasks)
                await running.start(PhasedService(Phase.CONNECTIONS, each) for each in channels.connections)
                await running.start(PhasedService(Phase.MESSAGES, each) for each in channels.answering)
                self._add_checks()
                await running.start([PhasedService(Phase.HEALTH, self.checks)])
                background.append(tasks.create_task(self._pool.watch(), name="workers"))
                workers = await self._pool.start(generation, healthy=False)
                await self._start_servers(running, control, tasks)
                self._distributor = Distributor(
                    self._sockets, host_paths=self._paths.names, serve=self._stand_in.serve_once
                )
                self._commit()
                self._pool.put_to_use(generation, workers, "")
                self.shutdown.started()
                self.checks.serving = True
                background.append(tasks.create_task(self._metrics_loop(), name="metrics of workers"))
                background.append(tasks.create_task(self._watch_files(), name="watch files"))
                if self._systemd is not None:
                    await running.start([PhasedService(Phase.SYSTEMD, self._systemd)])
                self._announce(workers[0])
                if not self.shutdown.requested.is_set():
                    on_ready(self._ready())
                await self.shutdown.requested.wait()
                await self._stop()
            finally:
                for task in background:
                    task.cancel()
                await self._pool.close()  # what watches the secrets of a generation is one of the tasks

    async def _load_secrets(self, generation: Generation, tasks: TaskGroup) -> None:
        """Fetch the secrets of a generation and watch them for as long as it lives. Raises SecretError."""
        await generation.stack.enter_async_context(generation.rotation.running(tasks))
        if self._pool.current is None:
            self._loading = generation.rotation.store.secret_values

    def _add_checks(self) -> None:
        self._channels.add_checks(self.checks)
        if self.manifest.secrets.rotate:
            self.checks.add("secrets", self._check_secrets, optional=True)

    async def _check_secrets(self) -> None:
        if self._pool.current is not None:
            await self._pool.current.rotation.check()

    async def _start_servers(self, running: Lifecycle, control: list[Listener], tasks: TaskGroup) -> None:
        """The supervisor's own servers: control socket, admin listener, and the one that stands in for workers."""
        if control:
            server = HttpServer("control", self._control(), control, bounds_of(self.manifest), self.shutdown.drain)
            await running.start([PhasedService(Phase.CONTROL, server)])
        await running.start([PhasedService(Phase.ADMIN, _AdminService(self))])
        await running.start([PhasedService(Phase.HTTP, self._stand_in)])
        server_of_peers = self._channels.server
        if server_of_peers is not None:
            await running.start([PhasedService(Phase.PEER_SERVER, server_of_peers)])

    def _control(self) -> ControlApp:
        return ControlApp(
            self.status,
            self.shutdown.request,
            self._rotate,
            self._deliver,
            self._masker.mask,
            reload=None if self.manifest.server.reload_mode == "off" else self._reload_asked,
            manifest=lambda: manifest_answer(self.manifest, self._next_used),
        )

    async def _rotate(self, name: str) -> dict[str, Any]:
        """Rotate a secret for the control socket. Raises HostError."""
        changed = await self._generation.rotation.rotate_by_hand(name)
        return {"name": name, "changed": name in changed}

    async def _deliver(self, type: str, content: Mapping[str, Any], timeout: float) -> Any:
        """Give a message of the control socket to a worker. Raises MessagingError."""
        deadline = time.time() + timeout
        envelope = Envelope({**content, "type": type}, {"deadline": round(deadline, 3)}).seal()
        answer = await self._routing.ask("", Payload.of(envelope), "control", "process")
        return import_module("pywatt_host.messaging.messages").content_of(answer, self.manifest.module_id)

    async def _reload_asked(self, module: str) -> dict[str, Any]:
        return await self.reloading.reload("asked over the control socket")

    def _announce(self, worker: WorkerProcess) -> None:
        announced = worker.announce
        endpoints = announced.endpoints if announced is not None else ()
        addresses = self._sockets.addresses
        self._channels.announce(
            addresses[0] if addresses else "", [(each.path, each.methods, each.auth or "") for each in endpoints]
        )

    def _ready(self) -> Ready:
        health, metrics = self.manifest.health, self.manifest.metrics
        paths = [health.path, health.liveness, health.readiness] if health.enabled else []
        if metrics.enabled:
            paths.append(metrics.path)
        return Ready(
            self.manifest.module_id, self.manifest.module.version or "", self._sockets.addresses,
            self._admin.addresses, tuple(paths), self._pool.wanted,
        )  # fmt: skip

    # Reloading ------------------------------------------------------------------------------------------------------

    def _signalled(self) -> None:
        """SIGHUP: reload, where the manifest says so."""
        if self.manifest.server.reload_mode == "off":
            logger.warning(
                "SIGHUP: this host does not reload (server.reload: off); set server.reload: signal",
                extra={"key": "server.reload"},
            )
            return
        self._request_reload("SIGHUP")

    def _request_reload(self, why: str) -> None:
        if self._tasks is not None and not self._pool.stopping and self._pool.current is not None:
            self._tasks.create_task(self._reload_for(why), name="reload")

    async def _reload_for(self, why: str) -> None:
        await self.reloading.reload(why)

    async def _put_to_use(self, manifest: Manifest) -> int:
        """Build a generation and put it to use. Raises HostError; the old one serves on then."""
        assert self._tasks is not None
        generation = self._new_generation(manifest)
        bound: dict[Address, list[Listener]] = {}
        admin = manifest.server.admin.listen if manifest.server.admin is not None else ()
        try:
            self._prepare_sockets(manifest, generation.number)
            bound = self._admin.bind(admin, manifest.directory)
            await self._load_secrets(generation, self._tasks)
            schemes = await self._schemes_of(generation, self._tasks)
            workers = await self._pool.start(generation, healthy=True)
            self._commit()
        except BaseException:
            self._roll_back()
            close_listeners(bound)
            await self._pool.discard(generation)
            raise
        before, self.manifest, self._schemes = self.manifest, manifest, schemes
        self.shutdown.use(manifest.server.timeouts)
        if manifest.logging != before.logging:
            self._relogged(manifest)
        self._pool.put_to_use(generation, workers, "a reload")
        await self._admin.use(admin, bound, self._tasks)
        self._announce(workers[0])
        return generation.number

    async def _schemes_of(self, generation: Generation, tasks: TaskGroup) -> Schemes | NoSchemes:
        """The schemes that guard the metrics path, where the supervisor serves it."""
        manifest = generation.manifest
        if not manifest.metrics.enabled or not manifest.metrics.auth or not manifest.auth:
            return NoSchemes()
        store = generation.rotation.store
        schemes: Schemes = import_module("pywatt_host.auth.schemes").Schemes(manifest, lambda: store.secret_values)
        generation.rotation.register(*schemes.dependants())
        await generation.stack.enter_async_context(schemes.running(tasks))
        return schemes

    def _begun(self) -> None:
        """Tell that a reload begins."""
        if self._systemd is not None:
            self._systemd.reloading()

    def _told(self, verdict: dict[str, Any]) -> None:
        """Tell the verdict of a reload everywhere but in the log."""
        self._reloads["success" if verdict["ok"] else "error"] += 1
        self.health.reload_refused(None if verdict["ok"] else verdict["reason"])
        if self._systemd is not None:
            self._systemd.ready("" if verdict["ok"] else f"the last reload was refused: {verdict['reason']}"[:500])

    def _watched(self) -> list[Path]:
        return watched_paths(self.manifest, self._env_file) if self.manifest.server.reload_mode == "watch" else []

    async def _watch_files(self) -> None:
        await watch(self._watched, self._seen, self._request_reload)

    async def _metrics_loop(self) -> None:
        while True:
            await asyncio.sleep(_PULL_INTERVAL)
            if self.manifest.metrics.enabled:
                await self._metrics.pull()

    # Stopping -------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self.checks.draining = True
        self._channels.draining()
        if self._systemd is not None:
            self._systemd.stopping()
        await self.reloading.close()
        await asyncio.sleep(self.manifest.server.timeouts.drain_delay)
        self._sockets.refuse_new()
        await self._distributor.take_all()
        workers = self._pool.accepting()
        await self._pool.shut_down()
        self._distributor.collect()
        for worker in workers:
            self._distributor.leave(worker)
        self._sockets.close()  # clients that come from now on are refused, though requests still run
        cut = await self._pool.wait(self.shutdown.time_left() + _STOP_GRACE)
        self.shutdown.count_cut(cut + sum(1 for code in self._pool.exit_codes if code != 0))
        self._distributor.close()
        self._requests.close()
        self._routing.close()
        self._registrations.close()

    @asynccontextmanager
    async def admin_running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Serve on the admin listener of the manifest, and on those of later ones."""
        admin = self.manifest.server.admin.listen if self.manifest.server.admin is not None else ()
        await self._admin.use(admin, self._admin.bind(admin, self.manifest.directory), tasks)
        try:
            yield
        finally:
            await self._admin.close()


class _AdminService:
    """The admin listener as a service."""

    name = "admin"

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with self._supervisor.admin_running(tasks):
            yield


def _app_init(manifest: Manifest, environ: Mapping[str, str], handshake: Handshake | None) -> AppInit:
    if handshake is None:
        return AppInit(None, dict(environ), None, None)
    init = handshake.init
    return AppInit(init.orchestrator_api, dict(init.env), init.listen, init.auth_token)
