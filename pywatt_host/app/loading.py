"""From an import path to the user's application: import it, call it where it is a factory, find out its interface.

Every fault is an `AppLoadError`. Where the user's own code raised, that exception is its `__cause__`, with the
traceback that the user would see without a host: the frames of this module and of importlib in front are removed.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal, TypeVar

from pywatt_host.app.bytecode import young_sources_not_cached
from pywatt_host.app.decorated import Decorated, Framework
from pywatt_host.app.introspection import framework_of, interface_of, is_factory
from pywatt_host.app.introspection.arguments import ArgumentsError, bind
from pywatt_host.app.introspection.table import FRAMEWORKS
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.observability.user_code import is_users_file

__all__ = ["LoadedApp", "call_factory", "framework_of", "import_object", "interface_of", "is_factory", "load_app"]

_USUAL_NAMES = ("app", "application", "create_app", "asgi", "wsgi")
_WELL_KNOWN = frozenset([*FRAMEWORKS, "aiohttp", "blacksheep", "bottle", "falcon", "pyramid", "sanic", "tornado"])
# What asyncio and uvloop say where a loop is started inside of a running one.
_RUNNING_LOOP = re.compile(r"running event loop|event loop is already running|another loop is running")
_ExceptionT = TypeVar("_ExceptionT", bound=BaseException)


@dataclass(frozen=True, slots=True)
class LoadedApp:
    """The application itself (a factory has been called), its interface, and its framework (empty: unknown)."""

    app: Any
    interface: Literal["asgi", "wsgi"]
    framework: str
    import_path: str


async def load_app(
    import_path: str,
    *,
    found: Any,
    interface: Literal["auto", "asgi", "wsgi"],
    factory: bool | None,
    args: Mapping[str, Any],
    state: Any,
    key: str,
) -> LoadedApp:
    """The application that `found`, the object at the import path, is or makes.

    `key` is the manifest key of the application, such as `app` or `mounts[0]`. A callable that cannot be recognised has
    the interface that `interface` declares. Raises `AppLoadError`.
    """
    app, framework = (found.function, found.framework) if isinstance(found, Decorated) else (found, None)
    made = isinstance(found, Decorated) or is_factory(app, factory, args)
    if made:
        app = await call_factory(app, import_path=import_path, args=args, state=state, key=key)
    elif args:
        message = f"{key}.args is given, but {_described(app)} is not a factory that takes them"
        raise AppLoadError(import_path, "factory-arguments", message, _factory_hint(app, key))
    spoken = interface_of(app)
    if spoken == "asgi2":
        hint = "make it ASGI 3: app = asgiref.compatibility.guarantee_single_callable(app)"
        raise AppLoadError(import_path, "asgi2", "the application speaks ASGI 2, which servers no longer support", hint)
    if spoken == "unknown" and (interface == "auto" or not callable(app)):
        subject = "the factory returned" if made else "this is"
        hint = "" if made else _not_an_app_hint(app, import_path, key)
        message = f"{subject} {_described(app)}, which is neither an ASGI nor a WSGI application"
        raise AppLoadError(import_path, "not-an-app", message, hint)
    if spoken != "unknown" and interface not in ("auto", spoken):
        message = f"{key}.interface says {interface}, but the application speaks {spoken}"
        raise AppLoadError(import_path, "wrong-interface", message, f"write {key}.interface: {spoken} or leave it out")
    if framework is not None and not _is_of(app, framework, spoken):
        message = f'the decorator says framework="{framework}", but the function returned {_described(app)}'
        raise AppLoadError(import_path, "wrong-interface", message, "leave it out, or return what it says")
    speaks: Literal["asgi", "wsgi"] = "wsgi" if "wsgi" in (spoken, interface) else "asgi"
    return LoadedApp(app, speaks, framework_of(app), import_path)


def _is_of(app: Any, framework: Framework, spoken: str) -> bool:
    return spoken == framework if framework in ("asgi", "wsgi") else framework_of(app) == framework


def check_factory(
    obj: Any, *, import_path: str, args: Mapping[str, Any], state: Any, key: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments for a factory, which is not called.

    Raises `AppLoadError`: `factory-arguments` with every argument that does not fit its signature and annotations, and
    `not-an-app` for an object that cannot be called.
    """
    if framework_of(obj) and not inspect.isroutine(obj) and not inspect.isclass(obj):
        message = f"{key}.factory is true, but this is already an application: {_described(obj)}"
        raise AppLoadError(import_path, "factory-arguments", message, f"leave {key}.factory out")
    if not callable(obj):
        message = f"{key}.factory is true, but this is {_described(obj)}, which cannot be called"
        raise AppLoadError(import_path, "not-an-app", message)
    try:
        return bind(obj, args, state, key=f"{key}.args")
    except ArgumentsError as fault:
        error = AppLoadError(import_path, "factory-arguments", str(fault))
        error.arguments = [(each.path, each.text, each.hint) for each in fault.faults]
        raise error from None


async def call_factory(obj: Any, *, import_path: str, args: Mapping[str, Any], state: Any, key: str) -> Any:
    """Call the factory, on this thread since frameworks may need the main one, and return the application.

    `args` are passed as keyword arguments, checked against the factory's signature and annotations; the parameter for
    the AppState (see `introspection.state_parameter`) gets `state`. Raises `AppLoadError`: `factory-arguments` with
    every fault, `factory-raised`, `factory-returned-nothing`, and `not-an-app` for an object that cannot be called.
    """
    positional, keyword = check_factory(obj, import_path=import_path, args=args, state=state, key=key)
    try:
        with young_sources_not_cached():  # factories import as well
            app = obj(*positional, **keyword)
        if inspect.isawaitable(app):
            app = await app
    except (Exception, SystemExit) as exc:
        cause = without_our_frames(exc)
        raise AppLoadError(import_path, "factory-raised", f"the factory raised {summary(cause)}") from cause
    if app is None:
        raise AppLoadError(import_path, "factory-returned-nothing", "the factory returned None", "return app")
    return app


def check_urls(app_framework: str, import_path: str) -> None:
    """Import what a framework imports only with the first request: the URL configuration of Django. Raises
    `AppLoadError`: `no-module` where it does not exist, and `module-raised`."""
    if app_framework != "django":
        return
    django = importlib.import_module("pywatt_host.app.introspection.django")
    try:
        django.load_urls()
    except (Exception, SystemExit) as exc:
        name = django.url_module() or "(ROOT_URLCONF is not set)"
        cause = _users_part(exc)
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{name}.".startswith(f"{cause.name}."):
            message = f"there is no module {cause.name}, which ROOT_URLCONF in the settings names"
            raise AppLoadError(import_path, "no-module", message, "correct ROOT_URLCONF") from None
        message = f"importing the URL configuration {name} raised {summary(cause)}"
        raise AppLoadError(import_path, "module-raised", message) from cause


def import_object(import_path: str, *, working_dir: Path) -> Any:
    """The object that `module:attribute` names. `working_dir` is first on `sys.path` from then on.

    Raises `AppLoadError`: `no-directory`, `no-module`, `module-raised`, `no-attribute`. KeyboardInterrupt passes.
    """
    module_name, _, attributes = import_path.partition(":")
    directory = os.path.abspath(working_dir)
    if not os.path.isdir(directory):
        raise AppLoadError(import_path, "no-directory", f"there is no directory {directory}", "see working_dir")
    if sys.path[:1] != [directory]:
        sys.path[:] = [directory, *(entry for entry in sys.path if entry != directory)]
    importlib.invalidate_caches()
    _refuse_other_module_of_that_name(import_path, module_name, directory)
    try:
        with young_sources_not_cached():
            module = importlib.import_module(module_name)
    except ManifestError:
        raise  # by a decorator in the module
    except (Exception, SystemExit) as exc:
        cause = without_our_frames(exc)
        if isinstance(cause, ModuleNotFoundError) and cause.__traceback__ is None:  # no code of the user's ran
            raise _no_module(import_path, module_name, cause.name or module_name, directory) from None
        raise _module_raised(import_path, module_name, cause) from cause
    return _attribute(import_path, module, attributes)


def _attribute(import_path: str, module: ModuleType, attributes: str) -> Any:
    obj: Any = module
    done = module.__name__
    for name in attributes.split("."):
        try:
            obj = getattr(obj, name)
        except AttributeError as exc:
            file = getattr(module, "__file__", None) or "built in"
            owner = f"`{done}`" if obj is not module else f"the module `{done}` ({file})"
            hint = _attribute_hint(obj, name, done, separator="." if obj is not module else ":")
            raise AppLoadError(import_path, "no-attribute", f"{owner} has no `{name}`", hint) from (
                exc if without_our_frames(exc).__traceback__ is not None else None
            )
        except (Exception, SystemExit) as exc:
            cause = without_our_frames(exc)
            message = f"reading `{name}` of `{done}` raised {summary(cause)}"
            raise AppLoadError(import_path, "module-raised", message) from cause
        done = f"{done}{'.' if ':' in done else ':'}{name}"
    return obj


def _refuse_other_module_of_that_name(import_path: str, module_name: str, directory: str) -> None:
    """A process has one module of a name: without this check, the second of two `main:app` would be the first again."""
    top = module_name.partition(".")[0]
    spec = PathFinder.find_spec(top, [directory])
    loaded = getattr(sys.modules.get(top), "__file__", None)
    if spec is None or not spec.has_location or spec.origin is None or loaded is None:
        return
    if os.path.realpath(loaded) != os.path.realpath(spec.origin):
        message = f"the name `{top}` is taken: this process has loaded {loaded}, so {spec.origin} cannot be loaded"
        raise AppLoadError(import_path, "no-module", message, "rename one of the two, or run them in two hosts")


def _no_module(import_path: str, module_name: str, missing: str, directory: str) -> AppLoadError:
    parent, _, name = missing.rpartition(".")
    package = sys.modules.get(parent)
    if package is not None and not hasattr(package, "__path__"):
        message = f"`{parent}` is a module ({package.__file__}) and not a package, so it has no `{name}`"
        return AppLoadError(import_path, "no-module", message, f"did you mean {parent}:{name}?")
    places = list(package.__path__) if package is not None else [directory]
    near = difflib.get_close_matches(name, _modules_in(places), 1)
    full = f"{parent}.{near[0]}" if near and parent else "".join(near)
    hint = f"did you mean {full}?" if full else ""
    if not full and package is None and name in _modules_in([os.path.join(directory, "src")]):
        hint = f"src/ has `{name}`: write working_dir: src"
    what = f"there is no module `{missing}`" + (f" (for `{module_name}`)" if missing != module_name else "")
    return AppLoadError(import_path, "no-module", f"{what} in {places[0]}", hint)


def _module_raised(import_path: str, module_name: str, exc: BaseException) -> AppLoadError:
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        missing = exc.name.partition(".")[0]
        message = f"the module `{module_name}` imports `{exc.name}`{_place(exc)}, which was not found"
        hint = f"pip install {missing}" if missing in _WELL_KNOWN and missing not in sys.modules else ""
        return AppLoadError(import_path, "module-raised", message, hint)
    hint = ""
    if isinstance(exc, SystemExit):
        hint = 'move the code that ends the process under if __name__ == "__main__"'
    elif isinstance(exc, RuntimeError) and _RUNNING_LOOP.search(str(exc)):
        hint = 'move the call that serves or waits there under if __name__ == "__main__": the host imports and serves'
    elif isinstance(exc, KeyError) and exc.args and _raised_in(exc) == os.__file__:
        hint = f"set the environment variable {exc.args[0]}"
    return AppLoadError(import_path, "module-raised", f"importing `{module_name}` raised {summary(exc)}", hint)


def _attribute_hint(obj: Any, name: str, done: str, *, separator: str) -> str:
    names = [each for each in dir(obj) if not each.startswith("__")]
    usual = [each for each in _USUAL_NAMES if each in names and callable(inspect.getattr_static(obj, each, None))]
    near = difflib.get_close_matches(name, names, 1)
    if near:
        return f"did you mean {done}{separator}{near[0]}?"
    if isinstance(obj, ModuleType) and name in _modules_in(getattr(obj, "__path__", [])):
        return f"`{done}.{name}` is a module: write {done}.{name}:{usual[0] if usual else 'app'}"
    if len(usual) != 1 and isinstance(obj, ModuleType):
        made = [each for each, value in vars(obj).items() if not inspect.isclass(value) and framework_of(value)]
        usual = usual or made
    return f"did you mean {done}{separator}{usual[0]}?" if len(usual) == 1 else ""


def _not_an_app_hint(app: Any, import_path: str, key: str) -> str:
    if isinstance(app, ModuleType):
        return f"write {app.__name__}:app, or the name of the application in the module"
    if inspect.isroutine(app) or inspect.isclass(app):
        return _factory_hint(app, key)
    return f"write {key}.interface: asgi or wsgi if it is one" if callable(app) else ""


def _factory_hint(app: Any, key: str) -> str:
    return f"write {key}.factory: true if calling it makes the application" if callable(app) else ""


def _described(obj: Any) -> str:
    """The object by type and name, without its text, which may contain a secret (a URL, a settings object)."""
    if obj is None or isinstance(obj, bool | int | float):
        return repr(obj)
    if isinstance(obj, ModuleType):
        return f"the module `{obj.__name__}`"
    kind = "class" if inspect.isclass(obj) else "function" if inspect.isroutine(obj) else ""
    named = obj if kind else type(obj)
    name = f"{named.__module__}.{named.__qualname__}".removeprefix("builtins.")
    return f"the {kind} `{name}`" if kind else f"an object of type `{name}`"


def summary(exc: BaseException) -> str:
    """The type, text and place of an exception, in one line."""
    text = " ".join(str(exc).split())[:200]
    if isinstance(exc, SyntaxError):
        return f"{type(exc).__name__}: {text}"
    return type(exc).__name__ + (f": {text}" if text else "") + _place(exc)


def _place(exc: BaseException) -> str:
    """The innermost place in the user's own code; the innermost at all where none is."""
    frames = list(_frames(exc))
    own = [frame for frame in frames if is_users_file(frame.tb_frame.f_code.co_filename)] or frames
    return f" at {own[-1].tb_frame.f_code.co_filename}:{own[-1].tb_lineno}" if own else ""


def _raised_in(exc: BaseException) -> str:
    """The file of the code that raised; `os` is frozen into Python."""
    frames = list(_frames(exc))
    name = frames[-1].tb_frame.f_code.co_filename if frames else ""
    return os.__file__ if name == "<frozen os>" else name


def _frames(exc: BaseException) -> Iterator[TracebackType]:
    frame = exc.__traceback__
    while frame is not None:
        yield frame
        frame = frame.tb_next


def without_our_frames(exc: _ExceptionT, *ours: str) -> _ExceptionT:
    """The exception with a traceback that begins at the first frame outside of this file, importlib and the files
    `ours`."""
    frames: TracebackType | None = exc.__traceback__
    while frames is not None and (_is_ours(name := frames.tb_frame.f_code.co_filename) or name in ours):
        frames = frames.tb_next
    return exc.with_traceback(frames)


def _users_part(exc: _ExceptionT) -> _ExceptionT:
    """The exception with a traceback that begins at the first frame of the user's own code; unchanged where none is."""
    for frame in _frames(exc):
        if is_users_file(frame.tb_frame.f_code.co_filename):
            return exc.with_traceback(frame)
    return exc


def _is_ours(filename: str) -> bool:
    return filename in (__file__, importlib.__file__) or filename.startswith("<frozen importlib")


def _modules_in(places: Iterable[str]) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(places)]
