"""Host: it binds, starts, serves, drains and stops what `build` has made."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from pywatt_host.app.applications import Applications
from pywatt_host.app.state import AppState
from pywatt_host.auth.none import NoSchemes
from pywatt_host.exceptions import BindError, HostError
from pywatt_host.http.redirect import RedirectApp
from pywatt_host.http.server.place import Place
from pywatt_host.http.server.server import HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.values import Address, UnixAddress
from pywatt_host.net.descriptors import descriptors_needed, raise_descriptor_limit
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.observability.health import Checks
from pywatt_host.observability.start_spans import StartSpans
from pywatt_host.runtime.certificates import FailedHandshakes, TlsService
from pywatt_host.runtime.control import ControlApp, control_path
from pywatt_host.runtime.lifecycle import lifecycle
from pywatt_host.runtime.manifest_answer import manifest_answer
from pywatt_host.runtime.phases import Phase, PhasedService
from pywatt_host.runtime.shutdown import Shutdown
from pywatt_host.runtime.signals import OtherSignals, StopSignals, signals_of_one_process
from pywatt_host.runtime.slow_start import told_when_slow
from pywatt_host.runtime.systemd import notifier
from pywatt_host.secrets.rotation import Rotation
from pywatt_host.types import ASGIApp

if TYPE_CHECKING:
    from pywatt_host.auth.schemes import Schemes
    from pywatt_host.discovery.discovery import Discovery
    from pywatt_host.discovery.none import NoDiscovery
    from pywatt_host.messaging.local import LocalMessages
    from pywatt_host.messaging.messages import Messages

logger = logging.getLogger("pywatt.host")


@dataclass(frozen=True, slots=True)
class Ready:
    """What a serving host says about itself. Addresses are those really bound: `http://HOST:PORT`,
    `https://HOST:PORT` or `unix:PATH`."""

    module_id: str
    version: str
    listen: tuple[str, ...]
    admin: tuple[str, ...]
    paths: tuple[str, ...]
    workers: int = 0  # 0 where the host is one process


@dataclass(frozen=True, slots=True)
class Surface:
    """The ASGI applications of a started host: the public one, and that of the admin listener (None: there is none)."""

    public: ASGIApp
    admin: ASGIApp | None


class EdgeService(Protocol):
    """The service that makes the ASGI applications, once the user's applications have started."""

    @property
    def surface(self) -> Surface: ...

    def host_allowed(self, host: str) -> bool:
        """Whether a Host is one that the public listeners answer to."""

    def announced(self) -> Sequence[tuple[str, tuple[str, ...], str]]:
        """The endpoints to announce: path templates, methods, and the names of the schemes that guard them."""


class Channels(Protocol):
    """What the host needs of its channels beside their services."""

    @property
    def messages(self) -> Messages | LocalMessages: ...

    @property
    def discovery(self) -> Discovery | NoDiscovery: ...

    def bind(self) -> None:
        """Bind the sockets where other modules connect. Raises BindError and ChannelError; nothing stays bound then."""

    def close(self) -> None:
        """Close those sockets, also where they were never served."""

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        """Tell the orchestrator and other modules where this module serves which endpoints."""

    def draining(self) -> None:
        """Tell the orchestrator and other modules that this module is about to stop."""


def bounds_of(manifest: Manifest) -> Bounds:
    """The limits of the servers of a manifest."""
    limits, timeouts = manifest.server.limits, manifest.server.timeouts
    return Bounds(
        header_bytes=limits.header,
        header_seconds=timeouts.header,
        keep_alive=timeouts.keep_alive,
        backlog=limits.backlog,
        body_seconds=timeouts.body,
        write_seconds=timeouts.write,
        connections=limits.connections,
        connections_per_client=limits.connections_per_client,
        websocket_message=limits.websocket.message,
        websocket_compression=limits.websocket.compression,
        websocket_connections=limits.websocket.connections,
    )


@dataclass(frozen=True, slots=True)
class _Sockets:
    """The bound sockets of a host that serves."""

    public: Sequence[Listener]
    admin: Sequence[Listener]
    control: Sequence[Listener]
    redirect: Sequence[Listener]


class Host:
    """A module that a manifest describes, ready to start once: `serve()` on its own sockets, or `application()` inside
    another ASGI server.

    `pywatt_host.build.host.build` makes one; calling a decorated function gives its host as `app.host`:

    >>> import asyncio
    >>> from pywatt_host import AppState, pywatt_module
    >>> @pywatt_module(health=True)
    ... def create_app(app_state: AppState):
    ...     async def app(scope, receive, send): ...
    ...     return app
    >>> async def main() -> None:
    ...     async with create_app({"module_id": "users"}) as app:
    ...         print(app.host.state.module_id, app.host.manifest.health.path)
    >>> asyncio.run(main())
    users /health
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        services: Sequence[PhasedService],
        edge: EdgeService,
        shutdown: Shutdown,
        channels: Channels,
        rotation: Rotation,
        schemes: Schemes | NoSchemes,
        applications: Applications,
        state: AppState,
        checks: Checks,
        tls: TlsService,
        failed_handshakes: FailedHandshakes,
        status: Callable[[], dict[str, Any]],
        environ: Mapping[str, str],
        spans: StartSpans,
    ) -> None:
        """`services` are all services of the host but those of its own sockets. `status` is what the control socket
        answers; `environ` says where the control socket goes and how to reach systemd. `spans` are those of the
        start."""
        self.manifest = manifest
        self.state = state
        self.applications = applications
        self.schemes = schemes
        self.channels = channels
        self.rotation = rotation
        self._services = tuple(services)
        self._edge = edge
        self._shutdown = shutdown
        self._checks = checks
        self._tls = tls
        self._failed_handshakes = failed_handshakes
        self._status = status
        self._environ = environ
        self._spans = spans

    # In another server ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def application(self, *, listening: bool = True) -> AsyncIterator[Surface]:
        """Start everything but the HTTP listeners, and give the ASGI applications of the edge; stop when the block
        ends.

        With `listening=False` no channel listens either. Raises HostError where something cannot start; everything that
        had started is stopped then.
        """
        if listening:
            self.channels.bind()
        try:
            async with lifecycle(self._shutdown, self._spans) as running:
                with self._spans.whole("start"):
                    await running.start(self._services)
                self._checks.serving = True
                self.channels.discovery.announce("")  # for services whose addresses are written in the manifest
                try:
                    yield self._edge.surface
                finally:
                    self._begin_draining()
                    self._shutdown.time_left()
        finally:
            self.channels.close()

    def _begin_draining(self) -> None:
        self._checks.draining = True
        self.state.draining.set()

    # On its own sockets ---------------------------------------------------------------------------------------------

    async def serve(
        self,
        on_ready: Callable[[Ready], None] = lambda ready: None,
        *,
        ends_process: bool = False,
        sockets: Mapping[str, Sequence[Address]] = MappingProxyType({}),
        place: Place | None = None,
    ) -> int:
        """Serve until a signal, `stop()`, the control socket or the orchestrator stops the host.

        Returns the exit code: 0 where all work was done, 1 where some was cut at `server.timeouts.shutdown`, 5 where
        the orchestrator was lost. Raises HostError where the host cannot start; everything that had started is stopped
        then.

        `on_ready` is called once, when requests are answered. With `ends_process` the process belongs to the host: a
        second signal, and anything that still hangs at the shutdown limit (a blocked event loop, a thread that is
        waited for at exit), ends it at once with 1. `sockets` has, for `server.listen` and `server.admin.listen`,
        addresses to use in place of those of the manifest, one for each; there is no redirect to HTTPS then. A worker
        has a `place`: its listeners take the place of `server.listen`, and it accepts once the place does.
        """
        self._shutdown.watch(ends_process=ends_process)
        if ends_process:
            limits = self.manifest.server.limits
            raise_descriptor_limit(descriptors_needed(limits.connections, limits.concurrency))
        try:
            with (
                self._bound(sockets, place) as bound,
                StopSignals(self.stop),
                self._other_signals(),
                self._shutdown.cancels_start(),
            ):
                await self._run(bound, on_ready, place)
        except HostError:
            self._shutdown.start_failed()
            raise
        finally:
            if not ends_process:
                self._shutdown.release()
        return self._shutdown.exit_code

    def _other_signals(self) -> OtherSignals:
        """Signals that would end the process by default. In a worker they do nothing: its supervisor reloads."""
        handlers = signals_of_one_process()
        if self.manifest.server.supervised:
            handlers = dict.fromkeys(handlers, lambda: None)
        return OtherSignals(handlers, asyncio.get_running_loop())

    async def _run(self, bound: _Sockets, on_ready: Callable[[Ready], None], place: Place | None) -> None:
        addresses = tuple(listener.address for listener in bound.public)
        if place is not None and place.addresses:
            addresses = place.addresses
        systemd = notifier(self._environ)
        async with lifecycle(self._shutdown, self._spans) as running:
            with (
                self._spans.whole("start" if place is None else "start worker"),
                told_when_slow(lambda: self._spans.current),
            ):
                certificates = PhasedService(Phase.CERTIFICATES, self._tls)
                await running.start((certificates, *(each for each in self._services if each.phase <= Phase.HEALTH)))
                if self._tls.listening:
                    self._checks.add("tls", self._tls.check, optional=True, known=True)
                await running.start(
                    (*self._servers(bound, place), *(each for each in self._services if each.phase > Phase.HEALTH))
                )
            self._shutdown.started()
            self._checks.serving = True
            if systemd is not None:
                await running.start([PhasedService(Phase.SYSTEMD, systemd)])
            self.channels.announce(addresses[0] if addresses else "", self._edge.announced())
            if not self._shutdown.requested.is_set():
                on_ready(self._ready(addresses, tuple(listener.address for listener in bound.admin)))
            await self._shutdown.requested.wait()
            self._begin_draining()
            self.channels.draining()
            if systemd is not None:
                systemd.stopping()
            await asyncio.sleep(self.manifest.server.timeouts.drain_delay)

    def _servers(self, bound: _Sockets, place: Place | None) -> Iterable[PhasedService]:
        """HTTP servers on the bound sockets."""
        surface = self._edge.surface
        if bound.control:
            control = self.control(tuple(listener.address for listener in bound.public))
            yield PhasedService(Phase.CONTROL, self._server("control", control, bound.control))
        if surface.admin is not None:
            yield PhasedService(Phase.ADMIN, self._server("admin", surface.admin, bound.admin))
        yield PhasedService(Phase.HTTP, self._server("http", surface.public, bound.public, place))
        if bound.redirect:
            secure = next(listener for listener in bound.public if listener.tls is not None)
            app = RedirectApp(lambda: secure.sock.getsockname()[1], self._edge.host_allowed)
            yield PhasedService(Phase.HTTP, self._server("redirect", app, bound.redirect))

    def control(self, addresses: Sequence[str]) -> ControlApp:
        """The application of the control socket, for a host that listens on these addresses."""
        return ControlApp(
            lambda: {**self._status(), "listen": addresses},
            self._shutdown.request,
            self._rotate,
            self.channels.messages.handlers.deliver,
            self.rotation.store.mask,
            manifest=lambda: manifest_answer(self.manifest, 1),
        )

    def _server(self, name: str, app: ASGIApp, listeners: Sequence[Listener], place: Place | None = None) -> HttpServer:
        return HttpServer(
            name, app, listeners, bounds_of(self.manifest), self._shutdown.drain, place, self._failed_handshakes
        )

    @contextmanager
    def _bound(self, sockets: Mapping[str, Sequence[Address]], place: Place | None) -> Iterator[_Sockets]:
        """All sockets of the host, bound; they are closed when the block ends. Raises BindError and ChannelError."""
        server, directory = self.manifest.server, self.manifest.directory
        backlog, environ = server.limits.backlog, dict(self._environ)
        with ExitStack() as stack:

            def opened(listeners: list[Listener]) -> list[Listener]:
                for listener in listeners:
                    stack.callback(listener.close)
                return listeners

            if place is not None:
                public = opened(list(place.listeners))
            else:
                key = "server.listen"
                listen = sockets.get(key, server.listen)
                public = []
                for number, address in enumerate(listen):
                    found = bind([address], key=key, directory=directory, backlog=backlog, environ=environ)
                    tls = server.tls_of(number)
                    for listener in opened(found):
                        listener.secure(self._tls.listening[tls.key] if tls is not None else None)
                    public += found
            admin: list[Listener] = []
            if server.admin is not None:
                key = "server.admin.listen"
                listen = sockets.get(key, server.admin.listen)
                admin = opened(bind(listen, key=key, directory=directory, backlog=backlog))
                for listener in admin:
                    listener.secure(self._tls.listening.get("server.admin.tls"))
            redirect: list[Listener] = []
            if server.redirects is not None and place is None and not sockets:
                redirect = opened(
                    bind([server.redirects], key="server.tls.redirect", directory=directory, backlog=backlog)
                )
            control = opened(self._bind_control(backlog))
            stack.callback(self.channels.close)
            self.channels.bind()
            yield _Sockets(public, admin, control, redirect)

    def _bind_control(self, backlog: int) -> list[Listener]:
        """The control socket. Where it cannot be bound, `server.control: auto` logs a warning, a path raises
        BindError."""
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

    async def _rotate(self, name: str) -> dict[str, Any]:
        """Rotate a secret for the control socket. Raises HostError."""
        changed = await self.rotation.rotate_by_hand(name)
        return {"name": name, "changed": name in changed}

    # Stopping -------------------------------------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Begin to drain. A second call ends the process at once, where the process belongs to the host. Safe from any
        thread and from signal handlers."""
        self._shutdown.stop(why)

    def unwound(self) -> None:
        """The event loop has closed after a failed start, or the process goes on: nothing ends it any more."""
        self._shutdown.release()
