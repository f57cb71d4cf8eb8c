"""Routes of Starlette, and of every application made from its `Router`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pywatt_host.app.introspection.regex import one_segment
from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a, is_a_class, methods_of
from pywatt_host.app.introspection.template import Parameter, Piece, below, join, template
from pywatt_host.app.introspection.transparent import class_name, is_transparent_class

_PARAMETER = re.compile(r"\{([a-zA-Z_][a-zA-Z0-9_]*)(?::[a-zA-Z_][a-zA-Z0-9_]*)?\}")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")


def matches(app: Any) -> bool:
    return is_a(app, "starlette", "Starlette", "Router")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    return redirecting(app, read(app.routes, routes_of))


def redirecting(app: Any, rows: list[Route]) -> list[Route]:
    """The rows, marked where the router of `app` redirects the other spelling of their paths."""
    if not getattr(getattr(app, "router", app), "redirect_slashes", False):
        return rows
    return [row if row.methods == ("WEBSOCKET",) else replace(row, slashes=True) for row in rows]


def notes(app: Any) -> Iterator[Note]:
    """What may answer a path without a route: middleware, a handler for 404, another `default`; and pages that are made
    while the application runs."""
    for middleware in getattr(app, "user_middleware", ()):
        cls = getattr(middleware, "cls", middleware)
        if is_a_class(cls, "starlette", "CORSMiddleware"):
            yield Note("CORSMiddleware answers preflight requests itself")
        elif not (isinstance(cls, type) and is_transparent_class(cls)):
            yield Note(f"the middleware {class_name(cls)} may answer requests itself")
    for key, handler in getattr(app, "exception_handlers", {}).items():
        answers = key in (404, 405) or (isinstance(key, type) and key.__name__ in ("HTTPException", "Exception"))
        if answers and getattr(handler, "__module__", "").partition(".")[0] not in ("starlette", "fastapi"):
            yield Note("an exception handler answers paths without a route")
    router = getattr(app, "router", app)
    default = getattr(router, "default", None)
    if default is not None and getattr(default, "__func__", None) is not getattr(type(router), "not_found", None):
        yield Note(f"the default of its router is {class_name(default)}")
    if is_a(app, "nicegui", "App"):
        yield Note("NiceGUI makes pages while it runs", certain=True)


def read(table: Iterable[Any], routes_of: RoutesOf) -> list[Route]:
    """The rows of a list of Starlette's routes. A route of an unknown class may match every path."""
    return [row for route in table for row in read_one(route, route, routes_of)]


def read_one(route: Any, kind: Any, routes_of: RoutesOf) -> list[Route]:
    """The rows of one route; `kind` is the route whose class decides how it is read."""
    if is_a(kind, "starlette", "Mount"):
        return _mounted(route.app, _template(route) if route.path else "", route.name or "", routes_of)
    if is_a(kind, "starlette", "Host"):  # rows have no host: the routes of every host are rows
        return _mounted(route.app, "", route.name or "", routes_of)
    if is_a(kind, "starlette", "WebSocketRoute"):
        return [Route(_template(route), ("WEBSOCKET",), route.name or "")]
    if is_a(kind, "starlette", "Route"):
        return [Route(_template(route), _methods(route, kind), route.name or "")]
    return [Route("/{path:path}", ANY)]


def _mounted(app: Any, prefix: str, name: str, routes_of: RoutesOf) -> list[Route]:
    if is_a(app, "starlette", "StaticFiles"):
        return [Route(below(prefix), ("GET", "HEAD"), name)]
    inner = routes_of(app)
    if inner is None:
        return [Route(below(prefix), ANY, name)]
    return [replace(row, path=join(prefix, row.path)) for row in inner]


def _methods(route: Any, kind: Any) -> tuple[str, ...]:
    if route.methods:
        # Starlette adds HEAD to GET; FastAPI's own routes do not, so a HEAD there was declared.
        added = set() if is_a(kind, "fastapi", "APIRoute") or "GET" not in route.methods else {"HEAD"}
        return methods_of(set(route.methods) - added)
    endpoint = route.endpoint
    if inspect.isclass(endpoint) and any(cls.__name__ == "HTTPEndpoint" for cls in endpoint.__mro__):
        return methods_of(method for method in _METHODS if hasattr(endpoint, method.lower()))
    return ANY


def _template(route: Any) -> str:
    pieces: list[Piece] = []
    end = 0
    for match in _PARAMETER.finditer(route.path):
        regex = route.param_convertors[match[1]].regex
        pieces += [route.path[end : match.start()], Parameter(match[1], rest=not one_segment(regex))]
        end = match.end()
    return template([*pieces, route.path[end:]])
