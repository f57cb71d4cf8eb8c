"""Which file reads which framework, and the way through middleware to the application that holds the routes."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, cast

from pywatt_host.app.introspection.route import Route

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
"""The name of a framework, which is the package its classes live in, to the module that reads its applications."""

_INNER = ("app", "application", "wsgi_application", "func", "__wrapped__", "__self__")
_DEEPEST = 20

logger = logging.getLogger(__name__)


class Reader(Protocol):
    """What a framework's file holds."""

    def matches(self, app: Any) -> bool: ...

    def routes(self, app: Any) -> list[Route]: ...


def framework_of(app: Any) -> str:
    """The framework of `app`, or of what its middleware wraps; empty for one that is not in the table."""
    for layer in _layers(app):
        for name, reader in _candidates(layer):
            if reader.matches(layer):
                return name
    return ""


def routes_of(app: Any) -> list[Route] | None:
    """The application's own routing table in its own order, or None when it is opaque: it cannot be read.

    A path can stand in several rows (one a method, one a host). A trailing slash that a framework forgives everywhere,
    by redirecting or ignoring it, is no row of its own. Reading a Django application imports its URL configuration.
    """
    for layer in _layers(app):
        for name, reader in _candidates(layer):
            if not reader.matches(layer):
                continue
            try:
                return list(dict.fromkeys(reader.routes(layer)))
            except Exception:  # named boundary: the framework's internals, which another release may have changed
                logger.warning("the routes of the %s application cannot be read", name, exc_info=True)
                return None
    return None


def _candidates(app: Any) -> Iterator[tuple[str, Reader]]:
    """The frameworks that the class of `app` descends from, nearest first."""
    packages = dict.fromkeys(cls.__module__.partition(".")[0] for cls in type(app).__mro__)
    for name in packages:
        if name in FRAMEWORKS:
            yield name, cast(Reader, import_module(FRAMEWORKS[name]))


def _layers(app: Any) -> Iterator[Any]:
    """`app`, then what it wraps (by the attribute names that middleware uses), and so on inwards."""
    seen: set[int] = set()
    while id(app) not in seen and len(seen) < _DEEPEST:
        seen.add(id(app))
        yield app
        app = next((inner for name in _INNER if _is_layer(inner := _plain(app, name))), app)


def _is_layer(value: Any) -> bool:
    return callable(value) and not inspect.isclass(value)


def _plain(app: Any, name: str) -> Any:
    """The attribute, unless it is computed: looking must not run the application's code."""
    found = inspect.getattr_static(app, name, None)
    return None if found is None or isinstance(found, property) else getattr(app, name, None)
