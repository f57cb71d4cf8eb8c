"""The fixture `pywatt_module`: from whatever a test has of a module to the module, started."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from pywatt_host.app.decorated import Decorated
from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.manifest.values.names import script_of
from pywatt_host.testing.client import AsyncModuleClient, ModuleClient
from pywatt_host.testing.finding import base_of
from pywatt_host.testing.isolation import Imported
from pywatt_host.testing.logs import KeptLogs
from pywatt_host.testing.running import Running
from pywatt_host.testing.started import Recipe, Started, started

TIMEOUT = 30.0  # seconds for each wait, unless the test says otherwise
__tracebackhide__ = True  # pytest shows the test's line, and not how it came from there to the fault


What: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Decorated | Callable[..., Any]


class PywattModule:
    """Starts modules in this process, and stops all of them at the end of the test.

    Paths are relative to the folder of the test, where they are there, else to pytest's root directory; those in a
    mapping are relative to the test's `tmp_path`.
    """

    def __init__(self, places: Sequence[Path], folder: Path, imported: Imported) -> None:
        self._places = places
        self._folder = folder
        self._imported = imported
        self._running: list[tuple[Running[Started], ModuleClient, float]] = []

    def __call__(
        self,
        what: What,
        *,
        secrets: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        profile: str | None = None,
        timeout: float = TIMEOUT,
    ) -> ModuleClient:
        """Start a module and give a client of it.

        `what` is a manifest or its folder, `module:app`, a mapping (a manifest as the file has it; `app` may also be
        the application or factory itself), a decorated function, or an application or factory.
        `secrets` are all the secrets there are: no other source is asked; left out, the manifest's own sources are.
        `overrides` are as after `--set`: {"server.limits.body": "1KiB"}.
        `environ` is what the module sees of the environment for `${VAR}`, `PYWATT__...` and the secret source `env`:
        nothing, unless given. `timeout` bounds each wait, in seconds.

        Raises what keeps the module from starting, such as ManifestError, AppLoadError or SecretError.
        """
        try:
            recipe = self._recipe(what, secrets, overrides, environ, profile, threading.get_ident())
            running = Running(started(recipe), recipe.manifest.module_id, recipe.logs.tail)
            client = ModuleClient(running, running.start(timeout), timeout)
        except HostError as error:
            raise error.with_traceback(None) from error.__cause__
        self._running.append((running, client, recipe.manifest.server.timeouts.shutdown + timeout))
        return client

    @asynccontextmanager
    async def client(
        self,
        what: What,
        *,
        secrets: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        profile: str | None = None,
        timeout: float = TIMEOUT,
    ) -> AsyncIterator[AsyncModuleClient]:
        """The same for an async test: on its own event loop, for as long as the block runs."""
        try:
            recipe = self._recipe(what, secrets, overrides, environ, profile, None)
            running = Running(started(recipe), recipe.manifest.module_id, recipe.logs.tail)
            module = await running.start_here(timeout)
        except HostError as error:
            raise error.with_traceback(None) from error.__cause__
        try:
            async with AsyncModuleClient(running, module, timeout) as client:
                yield client
        finally:
            await running.stop_here(recipe.manifest.server.timeouts.shutdown + timeout)

    def stop(self) -> None:
        """Stop all, the newest first. Raises the first thing that failed in the background or while stopping."""
        failures: list[BaseException] = []
        while self._running:
            running, client, timeout = self._running.pop()
            client.close()
            try:
                running.stop(timeout)
            except BaseException as error:  # named boundary: the others still stop, then it is raised
                failures.append(error)
        if failures:
            raise failures[0]

    def _recipe(
        self,
        what: What,
        secrets: Mapping[str, str] | None,
        overrides: Mapping[str, Any] | None,
        environ: Mapping[str, str] | None,
        profile: str | None,
        thread: int | None,
    ) -> Recipe:
        source, objects = self._source(what)
        settings = ["logging.format=json"]
        settings += [f"{key}={_written(value)}" for key, value in (overrides or {}).items()]
        if secrets is not None:
            settings.append("secrets.sources=[env]")
        given = dict(environ or {})
        manifest = load(source, profile=profile, overrides=settings, environ=given).manifest
        if isinstance(what, Decorated):
            what.check_is_app_of(manifest)
        return Recipe(
            manifest, objects, {**given, **(secrets or {})}, secrets is not None, KeptLogs(thread), self._imported
        )

    def _source(self, what: What) -> tuple[Source, Mapping[str, Any]]:
        if isinstance(what, Mapping):
            return self._of_mapping(what)
        if isinstance(what, str | os.PathLike):
            return self._named(os.fspath(what)), {}
        if isinstance(what, Decorated):
            return what.source(), what.objects
        if callable(what):
            return self._of_mapping({"app": what})
        raise TypeError(f"a module is a manifest, a mapping, a function or an application, not {type(what).__name__}")

    def _named(self, target: str) -> Source:
        base = base_of(target, self._places)
        path = base / target
        if script_of(target) is not None:
            raise ValueError(f'"{target}" is no manifest: import the decorated function of it, and give that')
        if re.match(IMPORT_PATTERN, target) and not path.exists():
            return Source.of_data({"app": target}, name=target, directory=base)
        return Source.file(path)

    def _of_mapping(self, data: Mapping[str, Any]) -> tuple[Source, Mapping[str, Any]]:
        """As the text of a file, so that everything in it means what it means there."""
        objects: dict[str, Any] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, os.PathLike):
                return os.fspath(value)
            if callable(value):
                path = f"in_the_test:object_{len(objects) + 1}"
                objects[path] = value
                return path
            raise TypeError(f"a manifest holds no {type(value).__name__}")

        text = json.dumps(dict(data), default=plain, ensure_ascii=False)
        return Source.of_text(text, name="the test's manifest", directory=self._folder), objects


def _written(value: Any) -> str:
    """As it stands after the `=` of `--set`."""
    return value if isinstance(value, str) else json.dumps(value)
