"""The object behind the fixture `pywatt_module`: it starts modules in the test's process, or as processes."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

from pywatt_host.app.decorated import Decorated
from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.manifest.values.names import script_of
from pywatt_host.testing.client import AsyncModuleClient, ModuleClient
from pywatt_host.testing.isolation import ImportedModules
from pywatt_host.testing.logs import CapturedLogs
from pywatt_host.testing.module_process import ModuleProcess, import_path, start_module
from pywatt_host.testing.paths import base_folder
from pywatt_host.testing.process import environment
from pywatt_host.testing.running import BackgroundContext
from pywatt_host.testing.started_module import ModuleSetup, StartedModule, started_module

TIMEOUT = 30.0  # seconds for each wait
__tracebackhide__ = True  # pytest shows the line of the test, and no lines of this file

What: TypeAlias = str | os.PathLike[str] | Mapping[str, Any] | Decorated | Callable[..., Any]


class PywattModule:
    """Starts modules in the test's process: the value of the fixture `pywatt_module`. All modules stop at the end of
    the test.

    A relative path is relative to the folder of the test if it exists there, else to pytest's root folder. A path in a
    mapping is relative to the test's `tmp_path`.
    """

    def __init__(self, folders: Sequence[Path], tmp_path: Path, imported: ImportedModules) -> None:
        """`folders` are those for relative paths, in their order; `tmp_path` is the folder of a mapping."""
        self._folders = folders
        self._tmp_path = tmp_path
        self._imported = imported
        self._running: list[tuple[BackgroundContext[StartedModule], ModuleClient, float]] = []
        self._processes: list[tuple[ModuleProcess, TemporaryDirectory[str]]] = []

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
        """Start a module and return a client for it.

            client = pywatt_module({"app": create_app, "secrets": ["KEY"]}, secrets={"KEY": "of-the-test"})

        `what` is one of these: the path of a manifest or of its folder; an import path such as `main:app`; a mapping
        with the content of a manifest, in which `app` may be the application or factory itself; a decorated function;
        an application or a factory. `secrets` are the only secrets that the module finds. Without it, the module uses
        the sources of its manifest. `overrides` replace manifest values as `--set` does: {"server.limits.body":
        "1KiB"}. `environ` is the environment that `${VAR}`, `PYWATT__...` and the secret source `env` see. The default
        is empty. `profile` is the profile of the manifest. `timeout` is the longest time that each wait may take, in
        seconds.

        The module runs until the end of the test. Raises the error that keeps the module from starting, such as
        ManifestError, AppLoadError or SecretError.
        """
        try:
            setup = self._setup(what, secrets, overrides, environ, profile, threading.get_ident())
            running = BackgroundContext(started_module(setup), setup.manifest.module_id, setup.logs.tail)
            client = ModuleClient(running, running.start(timeout), timeout)
        except HostError as error:
            raise error.with_traceback(None) from error.__cause__
        self._running.append((running, client, setup.manifest.server.timeouts.shutdown + timeout))
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
        """Start a module on the event loop of an async test, and return an async client for it. The arguments are the
        same; the module stops at the end of the block.

            async with pywatt_module.client("main:app") as client:
                response = await client.get("/users")
        """
        try:
            setup = self._setup(what, secrets, overrides, environ, profile, None)
            running = BackgroundContext(started_module(setup), setup.manifest.module_id, setup.logs.tail)
            module = await running.start_here(timeout)
        except HostError as error:
            raise error.with_traceback(None) from error.__cause__
        try:
            async with AsyncModuleClient(running, module, timeout) as client:
                yield client
        finally:
            await running.stop_here(setup.manifest.server.timeouts.shutdown + timeout)

    def process(
        self,
        what: What,
        *,
        workers: int = 2,
        secrets: Mapping[str, str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
        profile: str | None = None,
        timeout: float = TIMEOUT,
    ) -> ModuleProcess:
        """Start a module as a process with `workers` workers, and return a client for it once it is ready.

            module = pywatt_module.process("pywatt.yaml", workers=2)

        `what` may also be a `.py` file; applications and factories have to be functions of a module, since the process
        imports them. The other arguments are those of a module in the test's process, but `environ` is added to the
        environment of the tests. The module listens on a free port, and runs until the end of the test. Raises
        AssertionError with its log where it does not become ready.
        """
        target, base = self._target(what)
        # Its path is short, since the paths of sockets have a limit.
        folder = TemporaryDirectory(prefix="pywatt")
        settings = [f"{key}={_written(value)}" for key, value in (overrides or {}).items()]
        python_path = os.pathsep.join(filter(None, sys.path))
        try:
            module = start_module(
                target, base, Path(folder.name), workers=workers, secrets=secrets, settings=settings, profile=profile,
                environ=environment(Path(folder.name), PYTHONPATH=python_path, **(environ or {})), timeout=timeout,
            )  # fmt: skip
        except BaseException:
            folder.cleanup()
            raise
        self._processes.append((module, folder))
        return module

    def stop(self) -> None:
        """Stop every module, the newest first. Raises the first error of a module's background or while stopping."""
        while self._processes:
            module, folder = self._processes.pop()
            with folder:
                module.end()
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

    def _setup(
        self,
        what: What,
        secrets: Mapping[str, str] | None,
        overrides: Mapping[str, Any] | None,
        environ: Mapping[str, str] | None,
        profile: str | None,
        thread: int | None,
    ) -> ModuleSetup:
        source, objects = self._source(what)
        settings = ["logging.format=json"]
        settings += [f"{key}={_written(value)}" for key, value in (overrides or {}).items()]
        if secrets is not None:
            settings.append("secrets.sources=[env]")
        given = dict(environ or {})
        manifest = load(source, profile=profile, overrides=settings, environ=given).manifest
        if isinstance(what, Decorated):
            what.check_is_app_of(manifest)
        return ModuleSetup(
            manifest, objects, {**given, **(secrets or {})}, secrets is not None, CapturedLogs(thread), self._imported
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
        raise TypeError(
            f"pywatt_module takes a manifest, a mapping, a function or an application, not {type(what).__name__}"
        )

    def _named(self, target: str) -> Source:
        base = base_folder(target, self._folders)
        path = base / target
        if script_of(target) is not None:
            raise ValueError(
                f'"{target}" is not a manifest. Import its decorated function and pass that to pywatt_module'
            )
        if re.match(IMPORT_PATTERN, target) and not path.exists():
            return Source.of_data({"app": target}, name=target, directory=base)
        return Source.file(path)

    def _target(self, what: What) -> tuple[str, Path]:
        """What `run` serves, and the folder to run it in."""
        if isinstance(what, Decorated):
            if what.file is None:
                raise TypeError("a process cannot import this decorated function: it is not in a file")
            return f"{what.file}:{what.function.__name__}", Path(what.file).parent
        if isinstance(what, str | os.PathLike):
            target = os.fspath(what)
            base = base_folder(target, self._folders)
            is_import = re.match(IMPORT_PATTERN, target) and not (base / target).exists()
            return target if is_import else str(base / target), base
        data = what if isinstance(what, Mapping) else {"app": what}

        def plain(value: Any) -> Any:
            return os.fspath(value) if isinstance(value, os.PathLike) else import_path(value)

        path = self._tmp_path / f".pywatt-{len(self._processes) + 1}.yaml"
        path.write_text(json.dumps(dict(data), default=plain, ensure_ascii=False), encoding="utf-8")
        return str(path), self._tmp_path

    def _of_mapping(self, data: Mapping[str, Any]) -> tuple[Source, Mapping[str, Any]]:
        """The mapping as the text of a manifest file, so that interpolation and checks work as in a file."""
        objects: dict[str, Any] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, os.PathLike):
                return os.fspath(value)
            if callable(value):
                path = f"in_the_test:object_{len(objects) + 1}"
                objects[path] = value
                return path
            raise TypeError(f"a manifest cannot hold a value of type {type(value).__name__}")

        text = json.dumps(dict(data), default=plain, ensure_ascii=False)
        return Source.of_text(text, name="the test's manifest", directory=self._tmp_path), objects


def _written(value: Any) -> str:
    """A value as `--set` takes it after the `=`."""
    return value if isinstance(value, str) else json.dumps(value)
