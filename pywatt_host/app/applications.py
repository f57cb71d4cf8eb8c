"""The user's applications: imported, mounted, started in order, stopped in reverse."""

from __future__ import annotations

import logging
import os
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pywatt_host.app.decorated import Decorated, differing
from pywatt_host.app.introspection import Route, routes_of
from pywatt_host.app.lifespan import lifespan
from pywatt_host.app.loading import import_object, load_app
from pywatt_host.app.state import AppState
from pywatt_host.exceptions import AppLoadError
from pywatt_host.http.routes import Mount
from pywatt_host.manifest.model import App, AppMount, DirectoryMount, Manifest
from pywatt_host.manifest.values import SecretTemplate

logger = logging.getLogger("pywatt.app")


class Application:
    """One entry of `app` or `mounts`. `routes` (None: cannot be read) are known once it has been loaded; their paths
    carry the prefix."""

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
        self.framework = ""
        self.interface = "asgi"
        self.mount: Mount | None = None
        self._manifest = manifest
        self._texts = secret_values
        self._objects = objects
        self._wsgi: Any = None

    @property
    def name(self) -> str:
        """What errors and logs call it: its import path or its folder."""
        return self.options.directory if isinstance(self.options, DirectoryMount) else self.options.import_path

    @property
    def environment(self) -> Mapping[str, str | SecretTemplate]:
        """Its `env`, where secrets are still their references."""
        return {} if isinstance(self.options, DirectoryMount) else self.options.env

    def put_environment(self, secrets: Mapping[str, str]) -> None:
        """Put its `env` into os.environ; `secrets` are the texts of the secrets in it."""
        for name, value in self.environment.items():
            if not isinstance(value, SecretTemplate):
                os.environ[name] = value
            elif all(secret in secrets for secret in value.names):  # always, where the host has been started
                os.environ[name] = value.render(secrets)

    def found(self) -> Any:
        """What the import path stands for: the application or what makes it. Raises AppLoadError."""
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
        """The manifest is not the decorator's own, so that they may contradict each other. Raises AppLoadError."""
        differences = differing(found, self._manifest)
        if not differences:
            return
        hint = "the manifest wins: leave it out of the decorator, or say the same"
        if self._manifest.source is None:
            hint = f"run the file, for what its decorator says: pywatt-host run {found.place.partition(':')[0]}"
        message = f"the manifest and the decorator differ: {'; '.join(differences)}"
        raise AppLoadError(found.import_path, "decorator-differs", message, hint)

    async def load(self, state: AppState) -> Any:
        """Import and make the application; returns the ASGI callable. Raises AppLoadError."""
        if isinstance(self.options, DirectoryMount):
            static = import_module("pywatt_host.http.static")
            self.routes = [Route(f"{self.prefix.rstrip('/')}/{{path:path}}", ("GET",), "static files")]
            self.framework = "static"
            folder = self._manifest.resolve(self.options.directory)
            return static.StaticDirectory(folder, html=self.options.html, cache=self.options.cache)
        options = self.options
        self.put_environment(self._texts())
        loaded = await load_app(
            options.import_path,
            interface=options.interface,
            factory=options.factory,
            args=options.args,
            state=state,
            key=self.key,
            found=self.found(),
        )
        self.framework, self.interface = loaded.framework, loaded.interface
        found = routes_of(loaded.app)
        if found is not None:
            self.routes = [Route(_join(self.prefix, route.path), route.methods, route.name) for route in found]
        if loaded.interface == "wsgi":
            self._wsgi = import_module("pywatt_host.wsgi").WsgiApp(
                loaded.app, threads=options.threads, admission=self._manifest.server.limits.concurrency, name=self.key
            )
            return self._wsgi
        return loaded.app

    @asynccontextmanager
    async def running(self, state: AppState) -> AsyncIterator[None]:
        """Loaded and started: `mount` is there."""
        app = await self.load(state)
        request_state: dict[str, Any] = {"pywatt": state}
        self.mount = Mount(self.prefix, app, self.strict, request_state)
        if self._wsgi is not None or isinstance(self.options, DirectoryMount):
            yield
            return
        async with lifespan(app, request_state, self.name):
            yield

    async def stop_threads(self, timeout: float) -> int:
        """Stop the WSGI threads; returns how many still run after `timeout` seconds."""
        return int(await self._wsgi.aclose(timeout)) if self._wsgi is not None else 0


def _join(prefix: str, path: str) -> str:
    return path if prefix == "/" else prefix + path


class Applications:
    """All of them, as one service: each started in order, unwound on failure."""

    name = "app"

    def __init__(
        self,
        manifest: Manifest,
        state: AppState,
        secret_values: Callable[[], Mapping[str, str]],
        objects: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`texts` gives the texts of the secrets that `env` refers to, `objects` what import paths stand for that need
        not be imported."""
        self._state = state
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
            for application in self.all:
                await stack.enter_async_context(application.running(self._state))
            yield

    def mounts(self) -> list[Mount]:
        return [application.mount for application in self.all if application.mount is not None]

    def at(self, path: str) -> Application | None:
        """The one that a path belongs to."""
        covering = [a for a in self.all if a.mount is not None and a.mount.covers(path)]
        return max(covering, key=lambda application: len(application.prefix), default=None)
