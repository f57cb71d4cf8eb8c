"""The frameworks whose routes can be read, and the search through middleware for the application with the routes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, cast

from pywatt_host.app.introspection.route import Route, RoutesOf

FRAMEWORKS: Mapping[str, str] = MappingProxyType(
    {
        "django": "pywatt_host.app.introspection.django",
        "fastapi": "pywatt_host.app.introspection.fastapi",
        "flask": "pywatt_host.app.introspection.flask",
        "litestar": "pywatt_host.app.introspection.litestar",
        "quart": "pywatt_host.app.introspection.quart",
        "starlette": "pywatt_host.app.introspection.starlette",
        "werkzeug": "pywatt_host.app.introspection.werkzeug",
    }
)
"""The package of a framework's classes, which is its name, to the module that reads its applications."""

_INNER = ("app", "application", "wsgi_application", "func", "__wrapped__", "__self__")
_DEEPEST = 20

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """The functions of each framework's file."""

    def matches(self, app: Any) -> bool: ...

    def routes(self, app: Any, routes_of: RoutesOf) -> list[Route]:
        """The routes; `routes_of` reads applications that are mounted in this one."""


def framework_of(app: Any) -> str:
    """The framework of `app`, or of the application in its middleware; empty where it is not in the table."""
    for layer in _layers(app):
        for name, reader in _candidates(layer):
            if reader.matches(layer):
                return name
    return ""


def routes_of(app: Any) -> list[Route] | None:
    """The application's own route table in its own order, or None where it cannot be read.

    A path can be in several rows (one for each method or host). A trailing slash that a framework accepts everywhere,
    by redirecting or ignoring it, is not a row. Reading a Django application imports its URL configuration.
    """
    for layer in _layers(app):
        for name, reader in _candidates(layer):
            if not reader.matches(layer):
                continue
            try:
                return list(dict.fromkeys(reader.routes(layer, routes_of)))
            except Exception:  # named boundary: the framework's internals, which another release may have changed
                logger.warning("the routes of the %s application cannot be read", name, exc_info=True)
                return None
    return None


def _candidates(app: Any) -> Iterator[tuple[str, Reader]]:
    """The frameworks of the base classes of `app`, nearest first."""
    packages = dict.fromkeys(cls.__module__.partition(".")[0] for cls in type(app).__mro__)
    for name in packages:
        if name in FRAMEWORKS:
            yield name, cast(Reader, import_module(FRAMEWORKS[name]))


def _layers(app: Any) -> Iterator[Any]:
    """`app`, then the application that it wraps in an attribute that middleware uses, and so on inwards."""
    seen: set[int] = set()
    while id(app) not in seen and len(seen) < _DEEPEST:
        seen.add(id(app))
        yield app
        app = next((inner for name in _INNER if _is_layer(inner := _plain(app, name))), app)


def _is_layer(value: Any) -> bool:
    return callable(value) and not inspect.isclass(value)


def _plain(app: Any, name: str) -> Any:
    """The attribute, unless it is a property: no code of the application may run."""
    found = inspect.getattr_static(app, name, None)
    return None if found is None or isinstance(found, property) else getattr(app, name, None)
