"""The edge of a host, and the applications behind it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from pywatt_host.http.endpoints import Table
from pywatt_host.manifest.model import Cors
from pywatt_host.types import ASGIApp


def takes_everything(template: str, prefix: str) -> bool:
    """Whether it is a catch-all, which says nothing about any one path."""
    rest = template.removeprefix(prefix.rstrip("/"))
    return rest.count("/") == 1 and rest.endswith(":path}")


def add_route(table: Table[bool], path: str, method: str) -> None:
    try:
        table.add(path, (method,), True)
    except ValueError:
        return  # an application may have one path twice


def cors(settings: Cors) -> Callable[[ASGIApp], ASGIApp]:
    def wrap(app: ASGIApp) -> ASGIApp:
        middleware = import_module("starlette.middleware.cors").CORSMiddleware
        wrapped: ASGIApp = middleware(
            app,
            allow_origins=settings.allow_origins,
            allow_origin_regex=settings.allow_origin_regex,
            allow_methods=settings.allow_methods,
            allow_headers=settings.allow_headers,
            allow_credentials=settings.allow_credentials,
            expose_headers=settings.expose_headers,
            max_age=int(settings.max_age),
        )
        return wrapped

    return wrap
