"""The supervisor of a host with workers: it holds everything that the host has once, and never imports the application.

It binds the sockets, does the handshake, fetches secrets, keeps the channels, answers probes and metrics, and starts,
watches, replaces and reloads the workers, which speak the wire protocol with it as with an orchestrator.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pywatt_host.exceptions import BindError, HostError
from pywatt_host.http.server.server import HttpServer
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import Address, UnixAddress
from pywatt_host.net.descriptors import descriptors_needed, raise_descriptor_limit
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.runtime.control import ControlApp, control_path
from pywatt_host.runtime.hangup import HangupSignal
from pywatt_host.runtime.host import Ready, bounds_of
from pywatt_host.runtime.lifecycle import Lifecycle, lifecycle
from pywatt_host.runtime.manifest_answer import manifest_answer
from pywatt_host.runtime.phases import Phase, PhasedService
from pywatt_host.runtime.signals import OtherSignals, StopSignals, ignored
from pywatt_host.runtime.slow_start import told_when_slow
from pywatt_host.runtime.systemd import Notifier, notifier
from pywatt_host.workers.admin import close_listeners
from pywatt_host.workers.distributor import Distributor
from pywatt_host.workers.parts import SupervisorParts
from pywatt_host.workers.reloading import Reloading
from pywatt_host.workers.watching import look, watch, watched_paths
from pywatt_host.workers.worker_process import WorkerProcess

if TYPE_CHECKING:
    from pywatt_host.channels.stdio import Handshake
    from pywatt_host.manifest.values.names import Script

logger = logging.getLogger("pywatt.host")

_PULL_INTERVAL = 2.0  # seconds between two looks at the metrics of workers
_STOP_GRACE = 0.2  # seconds after the shutdown limit that workers get to leave by themselves
_PASS_TIME = 2.0  # seconds for connections that wait to be passed to workers, when the host stops
_MAX_STATUS = 500  # characters of a reason that `systemctl status` shows


@dataclass(frozen=True, slots=True)
class _OwnSockets:
    """The bound sockets of the supervisor's own servers."""

    control: list[Listener]
    admin: dict[Address, list[Listener]]
    redirect: dict[Address, list[Listener]]


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
        read_environ: Callable[[], Mapping[str, str]] | None = None,
        relogged: Callable[[Manifest], None] = lambda manifest: None,
    ) -> None:
        """`load` reads the manifest anew for a reload, and `read_environ` the environment with `env_file`. `script` is
        the Python file with the decorated function that the manifest comes from. `relogged` applies the logging
        settings of a manifest. Raises ChannelError for channels that cannot be made, OSError for a trace that cannot be
        written."""
        self.parts = SupervisorParts(manifest, environ, stream, handshake=handshake, trace=trace, script=script)
        self._env_file = env_file
        self._read_environ = read_environ
        self._seen = look(self._watched())  # now, since files may change while the host starts
        self._relogged = relogged
        self._tasks: TaskGroup | None = None
        self._reload_wanted = ""  # why, where one was asked for before the host was ready
        self._systemd: Notifier | None = None
        self.reloading = Reloading(
            load,
            lambda: (self.parts.number, self.parts.manifest),
            self._put_to_use,
            self._reload_begun,
            self._reload_told,
            self.parts.masker.mask,
            self.parts.start_spans,
        )

    def status(self) -> dict[str, Any]:
        """What the control socket answers."""
        reloading = {"module": self.parts.manifest.module_id} if self.reloading.under_way else None
        return {**self.parts.status(), "reloading": reloading, "reload": self.reloading.last}

    # Running --------------------------------------------------------------------------------------------------------

    async def serve(self, on_ready: Callable[[Ready], None] = lambda ready: None) -> int:
        """Serve until a signal, the control socket or the orchestrator stops the host. Returns the exit code: 0 where
        all work was done, 1 where some was cut, 5 where the orchestrator was lost. Raises HostError where the host
        cannot start; nothing is left behind then. The process belongs to the host."""
        loop, shutdown, limits = asyncio.get_running_loop(), self.parts.shutdown, self.parts.manifest.server.limits
        shutdown.watch(ends_process=True)
        raise_descriptor_limit(descriptors_needed(limits.connections, limits.concurrency))
        try:
            with (
                self._bound() as bound,
                StopSignals(shutdown.stop),
                HangupSignal(self._hung_up, shutdown.request, loop),
                OtherSignals({each: partial(ignored, each) for each in (signal.SIGUSR1, signal.SIGUSR2)}, loop),
                shutdown.cancels_start(),
            ):
                await self._run(bound, on_ready)
        except HostError:
            shutdown.start_failed()
            raise
        finally:
            await self.parts.pool.close()
            self.parts.around.shared.close()
        return shutdown.exit_code

    @contextmanager
    def _bound(self) -> Iterator[_OwnSockets]:
        """All sockets of the host, bound; gives those of the supervisor's own servers. They are closed when the block
        ends. Raises BindError and ChannelError."""
        parts = self.parts
        with ExitStack() as stack:
            stack.callback(parts.around.sockets.close)
            stack.callback(parts.around.roll_back)
            parts.around.prepare(parts.manifest, 1)
            admin = parts.admin.bind(_admin_addresses(parts.manifest), parts.manifest.directory)
            stack.callback(close_listeners, admin)
            redirect = parts.redirect.bind(_redirect_addresses(parts.manifest), parts.manifest.directory)
            stack.callback(close_listeners, redirect)
            control = self._bind_control()
            for listener in control:
                stack.callback(listener.close)
            stack.callback(parts.channels.close)
            parts.channels.bind()
            yield _OwnSockets(control, admin, redirect)

    def _bind_control(self) -> list[Listener]:
        """The control socket. Where it cannot be bound, `server.control: auto` logs a warning, a path raises
        BindError."""
        manifest = self.parts.manifest
        setting, directory = manifest.server.control, manifest.directory
        try:
            path = control_path(setting, manifest.module_id, directory, self.parts.environ)
            if path is None:
                return []
            backlog = manifest.server.limits.backlog
            return bind([UnixAddress(os.fspath(path))], key="server.control", directory=directory, backlog=backlog)
        except (BindError, OSError) as error:
            if setting != "auto":
                raise
            logger.warning("no control socket: %s", error, extra={"key": "server.control"})
            return []

    async def _run(self, bound: _OwnSockets, on_ready: Callable[[Ready], None]) -> None:
        parts = self.parts
        self._systemd = notifier(parts.environ)
        async with lifecycle(parts.shutdown, parts.start_spans) as running, TaskGroup() as tasks:
            self._tasks = tasks
            background: list[asyncio.Task[Any]] = []
            try:
                workers = await self._start(running, tasks, background)
                await self._start_servers(running, bound)
                parts.around.distributor = Distributor(
                    parts.around.sockets, host_paths=parts.paths.names, serve=parts.stand_in.serve_once
                )
                parts.around.commit()
                parts.pool.put_to_use(parts.pool.generations[0], workers, "")
                parts.watch_certificates()
                parts.shutdown.started()
                parts.checks.serving = True
                background.append(tasks.create_task(self._pull_metrics(), name="metrics of workers"))
                background.append(tasks.create_task(self._watch_files(), name="watch files"))
                if self._systemd is not None:
                    await running.start([PhasedService(Phase.SYSTEMD, self._systemd)])
                self._announce(workers[0])
                if not parts.shutdown.requested.is_set():
                    on_ready(self._ready())
                    if self._reload_wanted:
                        self._request_reload(self._reload_wanted)
                await parts.shutdown.requested.wait()
                await self._stop()
            finally:
                for task in background:
                    task.cancel()
                await parts.pool.close()  # what these two have started runs in `tasks`
                await parts.redirect.close()
                await parts.admin.close()

    async def _start(
        self, running: Lifecycle, tasks: TaskGroup, background: list[asyncio.Task[Any]]
    ) -> Sequence[WorkerProcess]:
        """Start channels, secrets and checks, then the first generation of workers. Raises HostError."""
        parts = self.parts
        generation = parts.new_generation(parts.manifest)
        with (
            parts.start_spans.whole("start", {"pywatt.generation": generation.number}),
            told_when_slow(lambda: generation.spans.current or parts.start_spans.current),
        ):
            await running.start([PhasedService(Phase.CHANNELS, parts.channels)])
            parts.schemes = await parts.load_secrets(generation, tasks)
            await running.start(PhasedService(Phase.CONNECTIONS, each) for each in parts.channels.connections)
            await running.start(PhasedService(Phase.MESSAGES, each) for each in parts.channels.answering)
            parts.add_checks()
            await running.start([PhasedService(Phase.HEALTH, parts.checks)])
            background.append(tasks.create_task(parts.pool.watch(), name="workers"))
            return await parts.pool.start(generation, healthy=False)

    async def _start_servers(self, running: Lifecycle, bound: _OwnSockets) -> None:
        """The supervisor's own servers: control socket, admin listener, redirect, and the one that stands in for
        workers."""
        parts = self.parts
        if bound.control:
            app = ControlApp(
                self.status,
                parts.shutdown.request,
                parts.rotate,
                parts.deliver,
                parts.masker.mask,
                reload=self._asked_to_reload if parts.manifest.server.reload_mode != "off" else None,
                manifest=lambda: manifest_answer(parts.manifest, parts.number),
            )
            server = HttpServer("control", app, bound.control, bounds_of(parts.manifest), parts.shutdown.drain)
            await running.start([PhasedService(Phase.CONTROL, server)])
        await running.start([PhasedService(Phase.ADMIN, _OwnServersService(parts, bound))])
        await running.start([PhasedService(Phase.HTTP, parts.stand_in)])
        if parts.channels.server is not None:
            await running.start([PhasedService(Phase.PEER_SERVER, parts.channels.server)])

    def _announce(self, worker: WorkerProcess) -> None:
        announced = worker.announce
        endpoints = announced.endpoints if announced is not None else ()
        address = next(iter(self.parts.around.sockets.addresses), "")
        self.parts.channels.announce(address, [(each.path, each.methods, each.auth or "") for each in endpoints])

    def _ready(self) -> Ready:
        manifest = self.parts.manifest
        health, metrics = manifest.health, manifest.metrics
        paths = [health.path, health.liveness, health.readiness] if health.enabled else []
        if metrics.enabled:
            paths.append(metrics.path)
        return Ready(
            manifest.module_id, manifest.module.version or "", self.parts.around.sockets.addresses,
            self.parts.admin.addresses, tuple(paths), self.parts.pool.wanted,
        )  # fmt: skip

    async def _pull_metrics(self) -> None:
        """Fetch the metrics of the workers at intervals. What a worker has counted since then is lost if it is
        killed."""
        while True:
            await asyncio.sleep(_PULL_INTERVAL)
            if self.parts.manifest.metrics.enabled:
                await self.parts.metrics.pull()

    # Reloading ------------------------------------------------------------------------------------------------------

    def _hung_up(self) -> None:
        """SIGHUP: reload, where the manifest says so."""
        if self.parts.manifest.server.reload_mode == "off":
            logger.warning(
                "SIGHUP: this host does not reload, because server.reload is off; set server.reload: signal and"
                " restart it",
                extra={"key": "server.reload"},
            )
        else:
            self._request_reload("SIGHUP")

    def _request_reload(self, why: str) -> None:
        if self._tasks is None or self.parts.pool.current is None:
            self._reload_wanted = why
        elif not self.parts.pool.stopping:
            self._tasks.create_task(self._reload_for(why), name="reload")

    async def _reload_for(self, why: str) -> None:
        await self.reloading.reload(why)

    async def _asked_to_reload(self, module: str) -> dict[str, Any]:
        return await self.reloading.reload("asked over the control socket")

    def _watched(self) -> list[Path]:
        manifest = self.parts.manifest
        return watched_paths(manifest, self._env_file) if manifest.server.reload_mode == "watch" else []

    async def _watch_files(self) -> None:
        await watch(self._watched, self._seen, self._request_reload)

    async def _put_to_use(self, manifest: Manifest) -> int:
        """Build a generation and put it to use. Raises HostError; the old one serves on then."""
        assert self._tasks is not None
        parts, addresses = self.parts, _admin_addresses(manifest)
        environ = await asyncio.to_thread(self._read_environ) if self._read_environ is not None else None
        generation = parts.new_generation(manifest, environ)
        admin: dict[Address, list[Listener]] = {}
        redirect: dict[Address, list[Listener]] = {}
        try:
            parts.around.prepare(manifest, generation.number)
            admin = parts.admin.bind(addresses, manifest.directory)
            redirect = parts.redirect.bind(_redirect_addresses(manifest), manifest.directory)
            schemes = await parts.load_secrets(generation, self._tasks)
            workers = await parts.pool.start(generation, healthy=True)
            await parts.catch_up(generation)
            parts.around.commit()
        except BaseException:
            parts.around.roll_back()
            close_listeners(admin)
            close_listeners(redirect)
            await parts.pool.discard(generation)
            raise
        before, parts.schemes = parts.manifest, schemes
        if parts.pool.current is not None:
            parts.pool.current.tls.settle()
        parts.use(manifest)
        if manifest.logging != before.logging:
            self._relogged(manifest)
        parts.pool.put_to_use(generation, workers, "a reload")
        parts.watch_certificates()
        await _use(parts, self._tasks, admin, redirect)
        self._announce(workers[0])
        return generation.number

    def _reload_begun(self) -> None:
        if self._systemd is not None:
            self._systemd.reloading()

    def _reload_told(self, verdict: dict[str, Any]) -> None:
        """Tell the verdict of a reload everywhere but in the log."""
        reason = None if verdict["ok"] else verdict["reason"]
        self.parts.reloads["success" if reason is None else "error"] += 1
        self.parts.health.reload_refused(reason)
        if self._systemd is not None:
            self._systemd.ready("" if reason is None else f"the last reload was refused: {reason}"[:_MAX_STATUS])

    # Stopping -------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        parts, distributor = self.parts, self.parts.around.distributor
        assert distributor is not None
        parts.checks.draining = True
        parts.channels.draining()
        if self._systemd is not None:
            self._systemd.stopping()
        await self.reloading.close()
        await asyncio.sleep(parts.manifest.server.timeouts.drain_delay)
        parts.around.sockets.refuse_new()
        workers = parts.pool.accepting()
        await parts.pool.shut_down()  # they take what the distributor passes, whatever their limits are
        distributor.collect()
        try:
            async with asyncio.timeout(_PASS_TIME):
                await distributor.take_all()
        except TimeoutError:
            pass  # what no worker takes is answered by the distributor at its end
        parts.around.sockets.close()  # workers close theirs: clients that connect from now on are refused at once
        for worker in workers:
            distributor.leave(worker)
        cut = await parts.pool.wait(parts.shutdown.time_left() + _STOP_GRACE)
        parts.shutdown.count_cut(cut + sum(code != 0 for code in parts.pool.exit_codes))
        distributor.close()
        for part in (parts.requests, parts.routing, parts.registrations):
            part.close()


class _OwnServersService:
    """The admin listener and the redirect as a service."""

    name = "admin"

    def __init__(self, parts: SupervisorParts, bound: _OwnSockets) -> None:
        self._parts = parts
        self._bound = bound

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        await _use(self._parts, tasks, self._bound.admin, self._bound.redirect)
        try:
            yield
        finally:
            await self._parts.redirect.close()
            await self._parts.admin.close()


async def _use(
    parts: SupervisorParts,
    tasks: TaskGroup,
    admin: Mapping[Address, list[Listener]],
    redirect: Mapping[Address, list[Listener]],
) -> None:
    """Let the supervisor's servers have the addresses of the manifest in use; these are the new ones."""
    manifest, bounds = parts.manifest, bounds_of(parts.manifest)
    generation = parts.pool.current or parts.pool.generations[0]
    tls = generation.tls.listening.get("server.admin.tls")
    await parts.admin.use(_admin_addresses(manifest), admin, tasks, bounds, tls)
    await parts.redirect.use(_redirect_addresses(manifest), redirect, tasks, bounds)


def _redirect_addresses(manifest: Manifest) -> tuple[Address, ...]:
    redirect = manifest.server.redirects
    return (redirect,) if redirect is not None else ()


def _admin_addresses(manifest: Manifest) -> tuple[Address, ...]:
    return manifest.server.admin.listen if manifest.server.admin is not None else ()
