"""Routes of Litestar."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a, methods_of
from pywatt_host.app.introspection.template import Parameter, Piece, below, template
from pywatt_host.app.introspection.transparent import class_name


def matches(app: Any) -> bool:
    return is_a(app, "litestar", "Litestar")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """One row for each handler, without the OPTIONS handler that Litestar adds to every path."""
    return [row for route in app.routes for row in _rows(route)]


def notes(app: Any) -> Iterator[Note]:
    for middleware in app.middleware:
        cls = getattr(middleware, "middleware", middleware)
        yield Note(f"the middleware {class_name(cls)} may answer requests itself")
    if app.cors_config is not None:
        yield Note("its CORS middleware answers preflight requests itself")
    if any(key in (404, 405) or getattr(key, "__name__", "") in _ANSWERS for key in app.exception_handlers):
        yield Note("an exception handler answers paths without a route")


_ANSWERS = ("Exception", "HTTPException", "NotFoundException", "MethodNotAllowedException")


def _rows(route: Any) -> list[Route]:
    path = template(_pieces(route.path_components))
    if is_a(route, "litestar", "HTTPRoute"):
        return [
            Route(path, methods_of(handler.http_methods), handler.handler_name, options=True, slashes=True)
            for handler in sorted(route.route_handlers, key=lambda handler: sorted(handler.http_methods))
            if handler.fn.__module__ != "litestar.routes.http"
        ]
    handler = route.route_handler
    if is_a(route, "litestar", "WebSocketRoute"):
        return [Route(path, ("WEBSOCKET",), handler.handler_name)]
    rows = [Route(path, ANY, handler.handler_name)]
    if handler.is_mount:
        rows.append(Route(below(path if path != "/" else ""), ANY, handler.handler_name))
    return rows


def _pieces(components: list[Any]) -> list[Piece]:
    """The pieces of a path. A component is text, or the definition of a parameter that is a whole segment."""
    pieces: list[Piece] = []
    for component in components:
        parameter = component if isinstance(component, str) else Parameter(component.name, component.type is Path)
        pieces += ["/", parameter]
    return pieces
