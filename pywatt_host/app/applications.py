"""The user's applications: imported, mounted, started in order, stopped in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol

from pywatt_host.app.decorated import Decorated, differing
from pywatt_host.app.introspection import Note, Route, table_of
from pywatt_host.app.lifespan import lifespan
from pywatt_host.app.loading import import_object, load_app
from pywatt_host.app.state import AppState
from pywatt_host.app.tasks import Tasks
from pywatt_host.exceptions import AppLoadError
from pywatt_host.http.routes import Mount
from pywatt_host.manifest.model import App, AppMount, DirectoryMount, Manifest
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.manifest.values.paths import everything_below
from pywatt_host.observability.start_spans import StartSpans

logger = logging.getLogger("pywatt.host")

_STOP_THREADS_GRACE = 0.15  # seconds that WSGI threads get to end, even when the shutdown limit is used up


class Application:
    """One application of `app` or `mounts`.

    `routes` is known once the application has been loaded: its routes with the mount's prefix, or None where its route
    table cannot be read. `notes` say why it answers, or may answer, further paths.
    """

    def __init__(
        self,
        key: str,
        options: App | AppMount | DirectoryMount,
        manifest: Manifest,
        secret_values: Callable[[], Mapping[str, str]] = dict,
        objects: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.key = key
        self.options = options
        self.prefix = options.route_prefix
        self.strict = (options.paths or manifest.server.paths) == "strict"
        self.routes: list[Route] | None = None
        self.notes: tuple[Note, ...] = ()
        self.framework = ""
        self.interface = "asgi"
        self.mount: Mount | None = None
        self.wrap: Callable[[Any], Any] = lambda app: app  # what stands between the host and the loaded application
        self._manifest = manifest
        self._secret_values = secret_values
        self._objects = objects
        self._loaded: Any = None
        self._wsgi: Any = None

    @property
    def name(self) -> str:
        """What errors and logs call the application: its import path or its folder."""
        return self.options.directory if isinstance(self.options, DirectoryMount) else self.options.import_path

    @property
    def partial(self) -> str:
        """Why its table of routes is known to be partial; empty where it is not, or where it cannot be read at all."""
        return "; ".join(note.text for note in self.notes if note.certain)

    @property
    def environment(self) -> Mapping[str, str | SecretTemplate]:
        """Its `env`, with references in place of secrets."""
        return {} if isinstance(self.options, DirectoryMount) else self.options.env

    def put_environment(self, secrets: Mapping[str, str]) -> None:
        """Put its `env` into os.environ; `secrets` are the values of the secrets that it refers to."""
        for name, value in self.environment.items():
            if not isinstance(value, SecretTemplate):
                os.environ[name] = value
            elif all(secret in secrets for secret in value.names):  # always, where the host has been started
                os.environ[name] = value.render(secrets)

    def import_target(self) -> Any:
        """The object that the import path names: the application or its factory. Raises AppLoadError."""
        options = self.options
        assert not isinstance(options, DirectoryMount)
        given = options.import_path in self._objects
        found = (
            self._objects[options.import_path]
            if given
            else import_object(options.import_path, working_dir=self._manifest.resolve(options.working_dir))
        )
        if isinstance(found, Decorated) and (not given or self._manifest.source is not None):
            self._compare(found)
        return found

    def _compare(self, found: Decorated) -> None:
        """Raise AppLoadError where the manifest, which is not the decorator's own, contradicts the decorator."""
        differences = differing(found, self._manifest)
        if not differences:
            return
        hint = "the manifest wins: leave it out of the decorator, or write the same value"
        if self._manifest.source is None:
            hint = f"to use the decorator's values, run the file: pywatt-host run {found.place.partition(':')[0]}"
        message = f"the manifest and the decorator differ: {'; '.join(differences)}"
        raise AppLoadError(found.import_path, "decorator-differs", message, hint)

    async def load(self, state: AppState) -> Any:
        """Import and make the application; returns the ASGI callable. Raises AppLoadError."""
        if isinstance(self.options, DirectoryMount):
            static = import_module("pywatt_host.http.static")
            self.routes = [Route(everything_below(self.prefix), ("GET",), "static files")]
            self.framework = "static"
            folder = self._manifest.resolve(self.options.directory)
            return static.StaticDirectory(
                folder, html=self.options.html, cache=self.options.cache, hidden=self.options.hidden
            )
        options = self.options
        self.put_environment(self._secret_values())
        loaded = await load_app(
            options.import_path,
            interface=options.interface,
            factory=options.factory,
            args=options.args,
            state=state,
            key=self.key,
            found=self.import_target(),
        )
        self.framework, self.interface = loaded.framework, loaded.interface
        self._loaded = loaded.app
        self.routes = self.reread()
        if loaded.interface == "wsgi":
            self._wsgi = import_module("pywatt_host.wsgi").WsgiApp(
                loaded.app, threads=options.threads, admission=self._manifest.server.limits.concurrency, name=self.key
            )
            return self._wsgi
        return loaded.app

    def reread(self) -> list[Route] | None:
        """The routes that the loaded application has now, with the mount's prefix. An application may add some when it
        starts."""
        table = table_of(self._loaded)
        if table is None:
            return None
        self.notes = table.notes
        return [replace(route, path=_join(self.prefix, route.path)) for route in table.routes]

    @asynccontextmanager
    async def running(self, state: AppState, stop_failed: Callable[[], None], spans: StartSpans) -> AsyncIterator[None]:
        """Load and start the application, and set `mount`; stop it when the block ends. `stop_failed` is called where
        it did not stop in order."""
        with spans.part(f"load {self.name}"):
            app = await self.load(state)
        request_state: dict[str, Any] = {"pywatt": state}
        self.mount = Mount(self.prefix, self.wrap(app), self.strict, request_state)
        if self._wsgi is not None or isinstance(self.options, DirectoryMount):
            yield
            return
        async with AsyncExitStack() as stack:
            with spans.part(f"lifespan {self.name}"):
                await stack.enter_async_context(lifespan(app, request_state, self.name, stop_failed))
            yield

    async def stop_threads(self, timeout: float) -> int:
        """Stop the WSGI threads; returns how many still run after `timeout` seconds."""
        return int(await self._wsgi.aclose(timeout)) if self._wsgi is not None else 0


def _join(prefix: str, path: str) -> str:
    return path if prefix == "/" else prefix + path


class Applications:
    """All applications of a manifest, as one service: each is started in order, and all are stopped in reverse, also
    where one of them fails to start."""

    name = "app"

    def __init__(
        self,
        manifest: Manifest,
        state: AppState,
        tasks: Tasks,
        secret_values: Callable[[], Mapping[str, str]],
        objects: Mapping[str, Any] = MappingProxyType({}),
        *,
        stop_failed: Callable[[], None] = lambda: None,
        spans: StartSpans,
    ) -> None:
        """`tasks` are the background tasks that the applications spawn. `secret_values` gives the values of the secrets
        that `env` refers to. `objects` maps import paths to objects that need not be imported. `stop_failed` is called
        where an application did not stop in order; it has been logged then. `spans` has
        spans for what takes long."""
        self._spans = spans
        self._stop_failed = stop_failed
        self._state = state
        self._tasks = tasks
        self.all: list[Application] = []
        if manifest.app is not None:
            self.all.append(Application("app", manifest.app, manifest, secret_values, objects))
        self.all += [
            Application(f"mounts[{number}]", mount, manifest, secret_values, objects)
            for number, mount in enumerate(manifest.mounts)
        ]

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            # An application that fails to start may have spawned tasks. Otherwise they have been stopped before.
            stack.push_async_callback(self._tasks.stop)
            for application in self.all:
                await stack.enter_async_context(application.running(self._state, self._stop_failed, self._spans))
            yield

    def mounts(self) -> list[Mount]:
        """The started applications under their prefixes."""
        return [application.mount for application in self.all if application.mount is not None]

    def at(self, path: str) -> Application | None:
        """The application that answers a path: of those whose prefix covers it, the one with the longest."""
        covering = [a for a in self.all if a.mount is not None and a.mount.covers(path)]
        return max(covering, key=lambda application: len(application.prefix), default=None)


class StopTime(Protocol):
    """How much time is left for stopping, and what had to be cut."""

    def time_left(self) -> float:
        """Seconds."""

    def count_cut(self, number: int) -> None:
        """Count work that was not done in time."""


class WsgiThreads:
    """The threads of all WSGI applications, as a service that stops them. It starts before the applications, so that it
    stops after them."""

    name = "WSGI threads"

    def __init__(self, applications: Applications, stop_time: StopTime) -> None:
        self._applications = applications
        self._stop_time = stop_time

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            yield
        finally:
            timeout = self._stop_time.time_left() + _STOP_THREADS_GRACE
            applications = self._applications.all
            left = await asyncio.gather(*(application.stop_threads(timeout) for application in applications))
            for application, number in zip(applications, left, strict=True):
                if number:
                    self._stop_time.count_cut(number)
                    logger.error("%d WSGI threads of %s still run", number, application.name)
