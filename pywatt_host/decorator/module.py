"""`@pywatt_module`: the manifest in code. Its arguments become a manifest, of which `build` makes the Host."""

from __future__ import annotations

import asyncio
import builtins
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, overload

from pywatt_host.app.decorated import Decorated, Framework
from pywatt_host.app.state import AppState, InitData
from pywatt_host.build.host import build
from pywatt_host.decorator.parameters import AnnouncedEndpoint, builder_path_of, data_of, import_path_of
from pywatt_host.decorator.scripts import module_of
from pywatt_host.exceptions import ProtocolError
from pywatt_host.manifest import load
from pywatt_host.manifest.load import OVERRIDE_PREFIX, InitLayer
from pywatt_host.runtime.host import Host
from pywatt_host.types import Receive, Scope, Send

_NO_FUNCTION = "@pywatt_module decorates a function, and takes its arguments by keyword; this is of type {}"


class ModuleApp:
    """A started module as an ASGI application, with its edge. Nothing listens. It runs until it is closed or the event
    loop ends. `host` is the Host, `state` the AppState."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._surface: Any = None
        self._closing = asyncio.Event()
        self._running: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def state(self) -> AppState:
        return self.host.state

    @property
    def closed(self) -> bool:
        return self._running is not None and self._running.done()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # the module has been started already; a server that stops closes it
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self._surface.public(scope, receive, send)

    async def start(self) -> None:
        """Start the module. Raises HostError where it cannot start; everything that had started is stopped then."""
        self._loop = asyncio.get_running_loop()
        started: asyncio.Future[None] = self._loop.create_future()
        self._running = asyncio.create_task(self._run(started), name=f"module {self.state.module_id}")
        self._running.add_done_callback(lambda _: started.cancel())  # of a factory that raised CancelledError
        try:
            await started
        except asyncio.CancelledError:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            raise

    async def _run(self, started: asyncio.Future[None]) -> None:
        """Run the host in a task of its own, since one task has to start and stop it."""
        try:
            async with self.host.application(listening=False) as surface:
                self._surface = surface
                started.set_result(None)
                await self._closing.wait()
        except Exception as error:  # named boundary: the caller of `start` gets the exception
            if started.done():
                raise
            started.set_exception(error)

    async def aclose(self) -> None:
        """Stop the module: tasks, shutdown hooks, lifespan. A second call does nothing.

        It may be called from another event loop while that of the module runs; where that one is paused, it raises
        RuntimeError.
        """
        if self._running is None or self._loop is None or self.closed or self._loop.is_closed():
            return  # not started, closed already, or ended together with its event loop
        if self._loop is asyncio.get_running_loop():
            self._closing.set()
            await self._running
        elif self._loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.aclose(), self._loop))
        else:
            message = f"the module {self.state.module_id} belongs to another event loop, which is not running"
            raise RuntimeError(f"{message}: close the module on that loop, before the loop stops")


class Opening:
    """The result of calling a decorated function: `await` starts the module; `async with` also closes it."""

    def __init__(self, open_it: Callable[[], Awaitable[ModuleApp]]) -> None:
        self._open = open_it
        self._app: ModuleApp | None = None

    def __await__(self) -> Generator[Any, None, ModuleApp]:
        return self._open().__await__()

    async def __aenter__(self) -> ModuleApp:
        self._app = await self
        return self._app

    async def __aexit__(self, *_: object) -> None:
        assert self._app is not None
        await self._app.aclose()


class DecoratedModule(Decorated):
    """A function decorated with `@pywatt_module`: a factory with its manifest."""

    _apps: tuple[ModuleApp, ...] = ()

    @overload
    def __call__(self, given: AppState, /) -> Any: ...

    @overload
    def __call__(self, given: Mapping[str, Any] | None = None, /) -> Opening: ...

    def __call__(self, given: AppState | Mapping[str, Any] | None = None, /) -> Any:
        """Called with an AppState, it calls the function. Called with an orchestrator's `init` as a mapping, of which
        everything may be left out, it starts the module without listening: `app = await create_app({...})` or
        `async with create_app({...}) as app`.

        Raises ManifestError for a fault in the manifest, ProtocolError for an invalid `init`, and HostError where the
        module cannot start.
        """
        if isinstance(given, AppState):
            return self.function(given)
        return Opening(lambda: self._opened({} if given is None else given))

    async def _opened(self, document: Mapping[str, Any]) -> ModuleApp:
        init = _init_of(document, self.directory)
        layer = InitLayer(init.listen, document.get("module_id"), init.env)
        manifest = load(self.source(), init=layer).manifest
        self.check_is_app_of(manifest)
        app = ModuleApp(build(manifest, {**os.environ, **init.env}, objects=self.objects, init=init))
        await app.start()
        self._apps = (*(other for other in self._apps if not other.closed), app)
        return app

    async def aclose(self) -> None:
        """Close every module that calling this function has started, the last one first."""
        apps, self._apps = self._apps, ()
        for app in reversed(apps):
            await app.aclose()


def _init_of(document: Mapping[str, Any], directory: Path) -> InitData:
    """The data of an `init`. Raises ProtocolError where it is invalid."""
    if not isinstance(document, Mapping):
        message = f"an init is a mapping, such as {{'module_id': 'users'}}, not {type(document).__name__}"
        raise ProtocolError("message", message)
    init = import_module("pywatt_host.protocol.messages").Init.read(
        {"module_id": directory.name or "module", **document}
    )
    return InitData(init.module_id, init.orchestrator_api or None, init.env, init.listen)


@overload
def pywatt_module(function: Callable[..., Any], /) -> DecoratedModule: ...


@overload
def pywatt_module(
    *,
    secrets: Sequence[str] | None = None,
    rotate: bool | None = None,
    endpoints: Sequence[AnnouncedEndpoint] | None = None,
    health: str | bool | Mapping[str, Any] | None = None,
    metrics: bool | str | Mapping[str, Any] | None = None,
    framework: Framework | None = None,
    state_builder: Callable[..., Any] | None = None,
    jwt_secret: str | None = None,
    enable_tcp: bool | None = None,
    enable_ipc: bool | None = None,
    tcp_config: Mapping[str, Any] | None = None,
    ipc_config: Mapping[str, Any] | None = None,
    enable_database: bool | None = None,
    enable_cache: bool | None = None,
    database_config: Mapping[str, Any] | None = None,
    cache_config: Mapping[str, Any] | None = None,
    version: str | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: str | Path | Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], DecoratedModule]: ...


def pywatt_module(
    function: Callable[..., Any] | None = None,
    /,
    *,
    secrets: Sequence[str] | None = None,
    rotate: bool | None = None,
    endpoints: Sequence[AnnouncedEndpoint] | None = None,
    health: str | bool | Mapping[str, Any] | None = None,
    metrics: bool | str | Mapping[str, Any] | None = None,
    framework: Framework | None = None,
    state_builder: Callable[..., Any] | None = None,
    jwt_secret: str | None = None,
    enable_tcp: bool | None = None,
    enable_ipc: bool | None = None,
    tcp_config: Mapping[str, Any] | None = None,
    ipc_config: Mapping[str, Any] | None = None,
    enable_database: bool | None = None,
    enable_cache: bool | None = None,
    database_config: Mapping[str, Any] | None = None,
    cache_config: Mapping[str, Any] | None = None,
    version: str | None = None,
    config: Mapping[str, Any] | None = None,
    manifest: str | Path | Mapping[str, Any] | None = None,
) -> Any:
    """Decorator: make a module of a function, sync or async, that takes the AppState and returns the application.

    Each argument sets a key of the manifest; docs/decorator.md has the table. An argument that is left out is like a
    missing key. `manifest` has all other keys, as a mapping in the form of a manifest file, or as the path of a file
    whose `app` is this function.

    In a file that Python runs as a script, the decorator runs the module and ends the process. Otherwise it returns a
    DecoratedModule: `pywatt-host run file.py`, `run_module(create_app)` and manifests can use it, and calling it starts
    the module in this process without listening, such as for tests. Raises ManifestError with every fault of the
    arguments, TypeError where it decorates something else than a function.

    >>> import asyncio
    >>> from pywatt_host import AnnouncedEndpoint, AppState, pywatt_module
    >>> @pywatt_module(endpoints=[AnnouncedEndpoint("/hello")], config={"name": "Ada"})
    ... def create_app(app_state: AppState):
    ...     async def app(scope, receive, send): ...
    ...     return app
    >>> async def main() -> None:
    ...     async with create_app({"module_id": "greeter"}) as app:
    ...         print(app.state.module_id, app.state.config["name"], app.state.manifest.endpoints[0].path)
    >>> asyncio.run(main())
    greeter Ada /hello
    """
    arguments = {name: value for name, value in locals().items() if name != "function"}
    if function is not None and not inspect.isfunction(function):
        raise TypeError(_NO_FUNCTION.format(type(function).__name__))
    caller = sys._getframe(1)
    place = f"{_shown(caller.f_code.co_filename)}:{caller.f_lineno}"

    def decorate(function: Callable[..., Any]) -> DecoratedModule:
        if not inspect.isfunction(function):
            raise TypeError(_NO_FUNCTION.format(type(function).__name__))
        if _is_script(function):
            # Imported by name, since the command line is above this package. It runs the file and ends the process.
            import_module("pywatt_host").run_script(_names(function)["__file__"])
        return _decorated(function, place, arguments)

    return decorate if function is None else decorate(function)


def _decorated(function: Callable[..., Any], place: str, arguments: Mapping[str, Any]) -> DecoratedModule:
    directory, name = _home(function)
    found = data_of(place, f".pywatt/{name.rpartition('.')[2] or 'module'}.sock", **arguments)
    import_path = import_path_of(function, name)
    builder = arguments["state_builder"]
    module = DecoratedModule(
        function,
        import_path=import_path,
        data={"app": import_path, **found.data},
        objects={builder_path_of(builder): builder} if builder is not None else {},
        framework=arguments["framework"],
        place=place,
        directory=directory,
        file=_names(function).get("__file__"),
        manifest_file=found.manifest_file,
        implied=found.implied,
        random_token=found.random_token,
    )
    if found.manifest_file is None:  # a fault is raised here, where the decorator is
        environ = {name: value for name, value in os.environ.items() if name.startswith(OVERRIDE_PREFIX)}
        load(module.source(), environ=environ)
    return module


def _home(function: Callable[..., Any]) -> tuple[Path, str]:
    """The folder that the function's module is imported from, and the name of the module."""
    file, name = _names(function).get("__file__"), function.__module__ or "module"
    if file is None:
        return Path.cwd(), name
    path = Path(os.path.abspath(file))
    if name.rpartition(".")[2] != path.stem and path.name != "__init__.py":  # run as a script, or under another name
        folder, name = module_of(path)
    else:
        folder = path.parents[name.count(".") + (path.name == "__init__.py")]
    while folder.is_file():  # the module is in an archive
        folder = folder.parent
    return folder, name


def _names(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals of the module where the function is defined, below other decorators."""
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return names


def _is_script(function: Callable[..., Any]) -> bool:
    """Whether the function is in the file that Python runs as a script; False at a prompt, in a notebook and in a test
    run."""
    main = sys.modules.get("__main__")
    return (
        main is not None
        and _names(function) is vars(main)
        and getattr(main, "__file__", None) is not None
        and not sys.flags.interactive
        and not hasattr(builtins, "__IPYTHON__")
        and "pytest" not in sys.modules
    )


def _shown(file: str) -> str:
    try:
        relative = os.path.relpath(file) if os.path.isabs(file) else file
    except OSError:  # the working directory is gone
        return file
    return file if relative.startswith("..") else relative
