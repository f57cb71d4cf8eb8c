"""Host: bind, start, serve, drain, stop. Everything that `build` made is entered in order here and left in reverse."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywatt_host.app.applications import Applications
from pywatt_host.app.hooks import Hooks
from pywatt_host.app.state import AppState
from pywatt_host.app.tasks import Tasks
from pywatt_host.auth.none import NoSchemes
from pywatt_host.exceptions import BindError, HostError, OrchestratorLostError
from pywatt_host.http.server.server import Bounds, Drain, HttpServer
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import Address, UnixAddress
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.observability.health import Checks
from pywatt_host.observability.logs import LogStream
from pywatt_host.runtime.control import ControlApp, control_path
from pywatt_host.runtime.signals import ShutdownWatch, StopSignals
from pywatt_host.runtime.systemd import notifier
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.service import Service, first_cause
from pywatt_host.types import ASGIApp

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.build.channels import HostChannels
    from pywatt_host.build.none import NoChannels

logger = logging.getLogger("pywatt.host")

_LAST_WORDS = 0.4  # seconds after the shutdown limit at which the process leaves, whatever still hangs
_UNWOUND = 5.0  # seconds after a failed start at which the process leaves, whatever does not end
_LEAST_STOP = 0.3  # seconds that a service gets to stop even when the limit is used up


@dataclass(frozen=True, slots=True)
class Ready:
    """What there is to say once a host serves: real addresses, as `http://HOST:PORT` or `unix:PATH`."""

    module_id: str
    version: str
    listen: tuple[str, ...]
    admin: tuple[str, ...]
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Surface:
    """The ASGI applications of a started host: what the public sees, what the admin listener serves (None: no such)."""

    public: ASGIApp
    admin: ASGIApp | None


class Host:
    """A built manifest, ready to start, once: `serve()` on its own sockets, or `application()` in another server."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        state: AppState,
        hooks: Hooks,
        checks: Checks,
        applications: Applications,
        schemes: Schemes | NoSchemes,
        before: Sequence[Service],
        user_state: Service,
        tasks: Tasks,
        early: Sequence[Service] = (),
        links: HostChannels | NoChannels,
        rotation: Rotation,
        announced: Callable[[], Sequence[tuple[str, tuple[str, ...], str]]],
        surface: Callable[[], Awaitable[Surface]],
        status: Callable[[], dict[str, Any]],
        environ: Mapping[str, str],
        stream: LogStream,
    ) -> None:
        self.manifest = manifest
        self.state = state
        self.applications = applications
        self.schemes = schemes
        self._before = before
        self._early = early
        self._user_state = user_state
        self._tasks = tasks
        self.links = links
        self.rotation = rotation
        self._announced = announced
        self._hooks = hooks
        self._checks = checks
        self._surface = surface
        self._status = status
        self._environ = environ
        self._stream = stream
        self._drain = Drain()
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch = ShutdownWatch(lambda: self._leave("did not stop within server.timeouts.shutdown: ended at once"))
        self._starting: asyncio.Task[Any] | None = None  # until everything has started
        self._ends_process = False
        self._failed_to_stop = False
        self._lost = False

    # In another server ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def application(self, *, listening: bool = True) -> AsyncIterator[Surface]:
        """Started, without listening for HTTP: the edge as ASGI applications. Not `listening`, channels do not either.
        Raises HostError where something cannot start."""
        if listening:
            self.links.open_doors()
        try:
            async with self._services() as (stack, tasks):
                surface = await self._start_application(stack, tasks)
                await self._enter(stack, tasks, self.links.listening)
                self._checks.serving = True
                self.links.discovery.announce("")  # of services whose addresses are written out
                try:
                    yield surface
                finally:
                    self._begin_draining()
                    self._time_to_stop()
        finally:
            self.links.close_doors()

    @asynccontextmanager
    async def _services(self) -> AsyncIterator[tuple[AsyncExitStack, TaskGroup]]:
        """The task group outermost: a fault in a service's own task stops the host, and is the error reported."""
        try:
            async with TaskGroup() as tasks, AsyncExitStack() as stack:
                yield stack, tasks
        except BaseExceptionGroup as group:
            first = first_cause(group)
            raise first from first.__cause__  # its own cause: an AppLoadError's is the user's exception

    async def _start_application(self, stack: AsyncExitStack, tasks: TaskGroup) -> Surface:
        await self._enter(stack, tasks, self.links)
        await self._enter(stack, tasks, self.rotation)
        for service in (*self._early, self.links.late, self.schemes, *self._before):
            await self._enter(stack, tasks, service)
        stack.push_async_callback(self._stop_threads)
        await self._enter(stack, tasks, self._user_state)
        stack.push_async_callback(self._tasks.stop)  # those of an application that then fails to start
        await self._enter(stack, tasks, self.applications)
        await self._enter(stack, tasks, self._hooks)
        await self._enter(stack, tasks, self._tasks)
        for service in self.links.answering:
            await self._enter(stack, tasks, service)
        surface = await self._surface()
        await self._enter(stack, tasks, self._checks)
        return surface

    async def _enter(self, stack: AsyncExitStack, tasks: TaskGroup, service: Service) -> None:
        """Start a service; its stop is bounded and logged, so that one that fails keeps nobody else from stopping."""
        context = service.running(tasks)
        await context.__aenter__()

        async def leave() -> None:
            try:
                async with asyncio.timeout(self._time_to_stop() + _LEAST_STOP):
                    await context.__aexit__(None, None, None)
            except TimeoutError:
                self._failed_to_stop = True
                logger.error("%s did not stop in time", service.name)
            except Exception:  # named boundary: the stop path
                self._failed_to_stop = True
                logger.exception("%s failed to stop", service.name)

        stack.push_async_callback(leave)

    def _begin_draining(self) -> None:
        self._checks.draining = True
        self.state.draining.set()

    def _time_to_stop(self) -> float:
        """Seconds left for stopping, which begins now if it has not yet."""
        if self._drain.deadline is None:
            self._drain.deadline = time.monotonic() + self.manifest.server.timeouts.shutdown
        return self._drain.left()

    async def _stop_threads(self) -> None:
        for application in self.applications.all:
            left = await application.stop_threads(self._time_to_stop() + _LEAST_STOP / 2)
            if left:
                self._drain.cut += left
                logger.error("%d WSGI threads of %s still run", left, application.name)

    # On sockets of its own ------------------------------------------------------------------------------------------

    async def serve(
        self,
        on_ready: Callable[[Ready], None] = lambda ready: None,
        *,
        ends_process: bool = False,
        sockets: Mapping[str, Sequence[Address]] = MappingProxyType({}),
    ) -> int:
        """Serve until stopped by a signal, `stop()` or the control socket. Returns the exit code: 0 with all work done,
        1 where work had to be cut, 5 where the orchestrator was lost. Raises HostError
        where it cannot start; nothing is left behind then.

        With `ends_process` the process belongs to the host: a second signal, and whatever still hangs at the shutdown
        limit (a wedged loop, a thread that is waited for at exit), ends it at once with 1. `sockets` has, for
        `server.listen` and `server.admin.listen`, what is listening there already.
        """
        self._ends_process = ends_process
        self._watch.start()
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        server, directory = self.manifest.server, self.manifest.directory
        backlog = server.limits.backlog
        environ = dict(self._environ)
        key = "server.listen"
        public = bind(sockets.get(key, server.listen), key=key, directory=directory, backlog=backlog, environ=environ)
        bound = [*public]
        try:
            admin: list[Listener] = []
            if server.admin is not None:
                key = "server.admin.listen"
                admin = bind(sockets.get(key, server.admin.listen), key=key, directory=directory, backlog=backlog)
                bound += admin
            control = self._bind_control(backlog)
            bound += control
            self.links.open_doors()
            with StopSignals(self.stop):
                await self._run_or_give_up(public, admin, control, on_ready)
        except HostError:
            self._watch.begin(_UNWOUND)  # a task that ignores its cancellation keeps the event loop from closing
            raise
        finally:
            for listener in bound:
                listener.close()
            self.links.close_doors()
            if not ends_process:
                self._watch.release()
        if self._lost:
            return OrchestratorLostError.exit_code
        return 1 if self._drain.cut or self._failed_to_stop else 0

    def unwound(self) -> None:
        """The event loop has closed after a failed start, or the process goes on: it is not ended any more."""
        self._watch.release()

    async def _run_or_give_up(self, *arguments: Any) -> None:
        """Run; asked to stop while still starting, unwind what has started instead of waiting for the rest."""
        self._starting = asyncio.current_task()
        try:
            await self._run(*arguments)
        except asyncio.CancelledError:
            if self._starting is None or self._drain.deadline is None:
                raise
            self._starting.uncancel()
        finally:
            self._starting = None

    async def _run(
        self,
        public: Sequence[Listener],
        admin: Sequence[Listener],
        control: Sequence[Listener],
        on_ready: Callable[[Ready], None],
    ) -> None:
        assert self._stopping is not None
        async with self._services() as (stack, tasks):
            surface = await self._start_application(stack, tasks)
            addresses = tuple(listener.address for listener in public)
            if control:
                app = ControlApp(
                    lambda: {**self._status(), "listen": addresses},
                    self.asked_to_stop,
                    self._rotate,
                    self.links.messages.handlers.deliver,
                )
                await self._enter(stack, tasks, self._server("control", app, control))
            if surface.admin is not None:
                await self._enter(stack, tasks, self._server("admin", surface.admin, admin))
            await self._enter(stack, tasks, self._server("http", surface.public, public))
            await self._enter(stack, tasks, self.links.listening)
            self._starting = None
            self._checks.serving = True
            systemd = notifier(self._environ)
            if systemd is not None:
                await self._enter(stack, tasks, systemd)
            self.links.announce(addresses[0] if addresses else "", self._announced())
            if not self._stopping.is_set():
                on_ready(self._ready(addresses, tuple(listener.address for listener in admin)))
            await self._stopping.wait()
            self._begin_draining()
            self.links.draining()
            if systemd is not None:
                systemd.stopping()
            await asyncio.sleep(self.manifest.server.timeouts.drain_delay)

    def _server(self, name: str, app: ASGIApp, listeners: Sequence[Listener]) -> HttpServer:
        server = self.manifest.server
        one_write = self._environ.get("PYWATT_ONE_WRITE", "on") != "off"
        bounds = Bounds(
            server.limits.header, server.timeouts.header, server.timeouts.keep_alive, server.limits.backlog, one_write
        )
        return HttpServer(name, app, listeners, bounds, self._drain)

    def _bind_control(self, backlog: int) -> list[Listener]:
        """The control socket. Without one in the usual place there is a warning, without one asked for an error."""
        setting, directory = self.manifest.server.control, self.manifest.directory
        try:
            path = control_path(setting, self.manifest.module_id, directory, self._environ)
            if path is None:
                return []
            return bind([UnixAddress(os.fspath(path))], key="server.control", directory=directory, backlog=backlog)
        except (BindError, OSError) as error:
            if setting != "auto":
                raise
            logger.warning("no control socket: %s", error, extra={"key": "server.control"})
            return []

    def _ready(self, listen: tuple[str, ...], admin: tuple[str, ...]) -> Ready:
        health, metrics = self.manifest.health, self.manifest.metrics
        paths = [health.path, health.liveness, health.readiness] if health.enabled else []
        if metrics.enabled:
            paths.append(metrics.path)
        return Ready(self.state.module_id, self.manifest.module.version or "", listen, admin, tuple(paths))

    # Stopping -------------------------------------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Begin to drain; a second call forces, where the process belongs to the host. Safe from any thread and signal
        handler."""
        timeouts = self.manifest.server.timeouts
        if self._drain.deadline is not None:
            self._leave("forced to stop")
            return
        limit = timeouts.drain_delay + timeouts.shutdown
        self._drain.deadline = time.monotonic() + limit
        self._watch.begin(limit + _LAST_WORDS)
        if self._loop is not None and self._stopping is not None:
            # A signal may arrive while a request runs: its log fields are not the stop's.
            self._loop.call_soon_threadsafe(self._begin_to_stop, why, context=contextvars.Context())

    def asked_to_stop(self, why: str) -> None:
        """By the control socket or the orchestrator, where asking twice does not force."""
        if self._drain.deadline is None:
            self.stop(why)

    async def _rotate(self, name: str) -> dict[str, Any]:
        """By the control socket. Raises HostError."""
        changed = await self.rotation.rotate_by_hand(name)
        return {"name": name, "changed": name in changed}

    def lost(self, why: str) -> None:
        """The orchestrator has gone without a word: drain, and leave with 5."""
        if self._drain.deadline is None:
            self._lost = True
            logger.error("the orchestrator is lost: %s", why)
            self.stop("the orchestrator is lost")

    def _begin_to_stop(self, why: str) -> None:
        assert self._stopping is not None
        logger.info("stopping: %s", why)
        self._stopping.set()
        if self._starting is not None:
            self._starting.cancel()

    def _leave(self, why: str) -> None:
        """Leave at once: nothing of the interpreter, of threads or of the loop is waited for."""
        if not self._ends_process:
            return
        with suppress(Exception):  # named boundary: the very last words
            logger.error("%s", why)
        os._exit(1)
