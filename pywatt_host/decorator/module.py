"""`@pywatt_module`: the manifest in code. Arguments become a manifest's data; the same `build` makes the same Host."""

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
from pywatt_host.decorator.parameters import AnnouncedEndpoint, builder_path_of, import_path_of, said
from pywatt_host.decorator.scripts import module_of
from pywatt_host.exceptions import ProtocolError
from pywatt_host.manifest import load
from pywatt_host.manifest.load import OVERRIDE_PREFIX, InitLayer
from pywatt_host.runtime.host import Host
from pywatt_host.types import Receive, Scope, Send

_NO_FUNCTION = "@pywatt_module decorates a function, and takes everything else by keyword; this is of type {}"


class ModuleApp:
    """A started module as an ASGI application, its edge included; nothing listens. It lives until it is closed, or the
    event loop ends."""

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
        if scope["type"] == "lifespan":  # it has been started already; a server that ends closes it
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self.aclose()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await self._surface.public(scope, receive, send)

    async def start(self) -> None:
        """Raises HostError where it cannot start; nothing is left behind then."""
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
        """A task of its own, since what is entered has to be left by the same one."""
        try:
            async with self.host.application(listening=False) as surface:
                self._surface = surface
                started.set_result(None)
                await self._closing.wait()
        except Exception as error:  # named boundary: why it could not start is for who started it
            if started.done():
                raise
            started.set_exception(error)

    async def aclose(self) -> None:
        """Stop it: hooks, tasks, lifespan. Calling it again does nothing. From another event loop, that of the module
        has to be running still; where it is only paused, this raises RuntimeError."""
        if self._running is None or self._loop is None or self.closed or self._loop.is_closed():
            return  # its event loop may have ended, and it with that
        if self._loop is asyncio.get_running_loop():
            self._closing.set()
            await self._running
        elif self._loop.is_running():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.aclose(), self._loop))
        else:
            message = f"the module {self.state.module_id} belongs to another event loop, which is not running: close it"
            raise RuntimeError(f"{message} there, before that loop stops")


class Opening:
    """What calling a decorated function gives: to be awaited, or entered with `async with`, which closes it too."""

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
    """A function with its manifest: what `@pywatt_module` makes of it."""

    _apps: tuple[ModuleApp, ...] = ()

    @overload
    def __call__(self, given: AppState, /) -> Any: ...

    @overload
    def __call__(self, given: Mapping[str, Any] | None = None, /) -> Opening: ...

    def __call__(self, given: AppState | Mapping[str, Any] | None = None, /) -> Any:
        """With an AppState: what the function returns. With an orchestrator's `init` as a mapping (all of it may be
        left out): the started module, without listening: `app = await create_app({...})`, or
        `async with create_app({...}) as app`. Raises ManifestError, ProtocolError for an init that is none, and
        HostError where it cannot start."""
        if isinstance(given, AppState):
            return self.function(given)
        return Opening(lambda: self._opened({} if given is None else given))

    async def _opened(self, document: Mapping[str, Any]) -> ModuleApp:
        init = _init_of(document, self.directory)
        layer = InitLayer(init.listen, document.get("module_id"), init.env)
        manifest = load(self.source(), init=layer).manifest
        self.claim(manifest)
        app = ModuleApp(build(manifest, {**os.environ, **init.env}, objects=self.objects, init=init))
        await app.start()
        self._apps = (*(other for other in self._apps if not other.closed), app)
        return app

    async def aclose(self) -> None:
        """Close everything that calling it has opened, the last first."""
        apps, self._apps = self._apps, ()
        for app in reversed(apps):
            await app.aclose()


def _init_of(document: Mapping[str, Any], directory: Path) -> InitData:
    """Raises ProtocolError where it is no init as the protocol has it."""
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
    """Decorator: make a module of a function that takes the AppState and returns the application, sync or async.

    Each argument is a key of the manifest (docs/decorator.md has the table); `manifest` is the rest of it, as a mapping
    in the form of the file, or the path of a file that names this function. What is left out is as in a manifest
    without that key. In a script that is run, decorating runs the module and ends the process. Raises ManifestError
    with every fault.
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
            # The way up goes by name: the command line runs the file, and does not come back.
            import_module("pywatt_host").run_script(_names(function)["__file__"])
        return _decorated(function, place, arguments)

    return decorate if function is None else decorate(function)


def _decorated(function: Callable[..., Any], place: str, arguments: Mapping[str, Any]) -> DecoratedModule:
    directory, name = _home(function)
    found = said(place, f".pywatt/{name.rpartition('.')[2] or 'module'}.sock", **arguments)
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
    if found.manifest_file is None:  # so that a fault shows where the decorator stands
        environ = {name: value for name, value in os.environ.items() if name.startswith(OVERRIDE_PREFIX)}
        load(module.source(), environ=environ)
    return module


def _home(function: Callable[..., Any]) -> tuple[Path, str]:
    """The folder that the function's module is imported from, and the module's name."""
    file, name = _names(function).get("__file__"), function.__module__ or "module"
    if file is None:
        return Path.cwd(), name
    path = Path(os.path.abspath(file))
    if name.rpartition(".")[2] != path.stem and path.name != "__init__.py":  # run as a script, or under another name
        folder, name = module_of(path)
    else:
        folder = path.parents[name.count(".") + (path.name == "__init__.py")]
    while folder.is_file():  # an archive that it was imported from
        folder = folder.parent
    return folder, name


def _names(function: Callable[..., Any]) -> dict[str, Any]:
    """The globals of the module that it was written in, other decorators below this one looked through."""
    names: dict[str, Any] = getattr(inspect.unwrap(function), "__globals__", {})
    return names


def _is_script(function: Callable[..., Any]) -> bool:
    """Whether the function stands in the file that Python runs: no prompt, no notebook, no test run."""
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
