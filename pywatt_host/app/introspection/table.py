"""The frameworks whose routes can be read, and the search through middleware for the application with the routes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import FunctionType, MappingProxyType, MethodType
from typing import Any, Protocol, cast

from pywatt_host.app.introspection.route import Note, Route, RoutesOf, RouteTable
from pywatt_host.app.introspection.transparent import class_name, is_transparent

FRAMEWORKS: Mapping[str, str] = MappingProxyType(
    {
        "django": "pywatt_host.app.introspection.django",
        "fastapi": "pywatt_host.app.introspection.fastapi",
        "flask": "pywatt_host.app.introspection.flask",
        "litestar": "pywatt_host.app.introspection.litestar",
        "quart": "pywatt_host.app.introspection.quart",
        "starlette": "pywatt_host.app.introspection.starlette",
        "werkzeug": "pywatt_host.app.introspection.werkzeug",
        "connexion": "pywatt_host.app.introspection.connexion",
    }
)
"""The package of a framework's classes, which is its name, to the module that reads its applications."""

_WRAPPERS: Mapping[str, str] = MappingProxyType(
    {
        "channels": "pywatt_host.app.introspection.channels",
        "engineio": "pywatt_host.app.introspection.socketio",
        "socketio": "pywatt_host.app.introspection.socketio",
    }
)
"""The same for packages whose classes route to applications of other frameworks."""

_INNER = (
    "app",
    "application",
    "wsgi_application",
    "inner",
    "func",
    "__wrapped__",
    "__self__",
    "wsgi_app",
    "asgi_app",
    "other_asgi_app",
    "wrapped_app",
    "_app",
    "_application",
    "wrapped",
)
_ENTRIES = ("wsgi_app", "asgi_app")  # which Flask and Quart call, and which users replace
_REPLACEABLE = ("flask", "quart")
_DEEPEST = 20

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """The functions of each framework's file."""

    def matches(self, app: Any) -> bool: ...

    def routes(self, app: Any, routes_of: RoutesOf) -> list[Route]:
        """The routes; `routes_of` reads applications that are mounted in this one."""

    def notes(self, app: Any) -> Iterator[Note]:
        """Why the application answers, or may answer, paths of which it has no row."""


def framework_of(app: Any) -> str:
    """The framework of `app`, or of the application in its middleware; empty where it is not in the table."""
    for layer in _layers(app):
        for name, reader in _readers(layer):
            if name in FRAMEWORKS and reader.matches(layer):
                return name
    return ""


def routes_of(app: Any) -> list[Route] | None:
    """The rows of `table_of`, or None where the table cannot be read."""
    table = table_of(app)
    return None if table is None else table.routes


def table_of(app: Any) -> RouteTable | None:
    """The application's own route table in its own order, or None where it cannot be read.

    A path can be in several rows (one for each method or host). A trailing slash that a framework accepts everywhere,
    by redirecting or ignoring it, is not a row. Reading a Django application imports its URL configuration.
    """
    reading = _Reading()
    rows = reading.routes_of(app)
    return None if rows is None else RouteTable(rows, tuple(dict.fromkeys(reading.notes)))


class _Reading:
    """Reads one application, with those that are mounted in it."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self._entered: set[int] = set()  # applications that are read by the entry point that replaced their own

    def routes_of(self, app: Any) -> list[Route] | None:
        """The rows of an application; None where they cannot be read. Notes are collected."""
        around: list[Any] = []
        for layer in _layers(app):
            for name, reader in _readers(layer):
                if reader.matches(layer):
                    rows = self._read(layer, name, reader)
                    if rows is not None:
                        self.notes += [note for each in around for note in _notes_of_wrapper(each)]
                    return rows
            around.append(layer)
        return None

    def mounted(self, app: Any) -> list[Route] | None:
        """The rows of an application that another one mounts."""
        rows = self.routes_of(app)
        if rows is None:
            self.notes.append(Note(f"the routes of {class_name(app)}, which is mounted in it, cannot be read"))
        return rows

    def _read(self, app: Any, name: str, reader: Reader) -> list[Route] | None:
        entry = _replaced_entry(app) if name in _REPLACEABLE else None
        if entry is not None and id(app) not in self._entered:
            self._entered.add(id(app))
            rows = self.routes_of(entry)
            if rows is not None:
                return rows
            self.notes.append(Note(f"its entry point has been replaced by {class_name(entry)}", certain=True))
        try:
            rows = list(dict.fromkeys(reader.routes(app, self.mounted)))
            self.notes += reader.notes(app)
        except Exception:  # named boundary: the framework's internals, which another release may have changed
            logger.warning("the routes of the %s application cannot be read", name, exc_info=True)
            return None
        return rows


def _notes_of_wrapper(layer: Any) -> Iterator[Note]:
    if not is_transparent(layer):
        yield Note(f"it is wrapped in {class_name(layer)}, which may answer further paths", certain=True)


def _replaced_entry(app: Any) -> Any:
    """What the application calls in place of its own `wsgi_app` or `asgi_app`; None where nothing was put there."""
    own = getattr(app, "__dict__", {})
    found = next((own[name] for name in _ENTRIES if callable(own.get(name))), None)
    return None if isinstance(found, MethodType) and found.__self__ is app else found


def _readers(app: Any) -> Iterator[tuple[str, Reader]]:
    """The frameworks of the base classes of `app`, nearest first."""
    packages = dict.fromkeys(cls.__module__.partition(".")[0] for cls in type(app).__mro__)
    for name in packages:
        module = FRAMEWORKS.get(name) or _WRAPPERS.get(name)
        if module is not None:
            yield name, cast(Reader, import_module(module))


def _layers(app: Any) -> Iterator[Any]:
    """`app`, then the application that it wraps in an attribute that middleware uses, and so on inwards."""
    seen: set[int] = set()
    while id(app) not in seen and len(seen) < _DEEPEST:
        seen.add(id(app))
        yield app
        app = next(_inner(app), app)


def _inner(app: Any) -> Iterator[Any]:
    """What a layer wraps: the value of an attribute, or of a variable around a function."""
    protocols = getattr(app, "__dict__", {}).get("application_mapping")  # of Channels' ProtocolTypeRouter
    if isinstance(protocols, dict):
        yield from (each for each in (protocols.get("http"), protocols.get("websocket")) if _is_layer(each))
    for name in _INNER:
        if _is_layer(inner := _plain(app, name)):
            yield inner
    if isinstance(app, FunctionType):
        yield from (each for each in _enclosed(app) if _is_layer(each) and not inspect.isbuiltin(each))


def _enclosed(function: FunctionType) -> Iterator[Any]:
    """The applications in the variables around a function, such as a middleware written as a closure."""
    for cell in function.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        owner = value.__self__ if isinstance(value, MethodType) else value
        if any(reader.matches(owner) for _, reader in _readers(owner)):
            yield value


def _is_layer(value: Any) -> bool:
    return callable(value) and not inspect.isclass(value)


def _plain(app: Any, name: str) -> Any:
    """The attribute, unless it is a property: no code of the application may run."""
    found = inspect.getattr_static(app, name, None)
    return None if found is None or isinstance(found, property) else getattr(app, name, None)
