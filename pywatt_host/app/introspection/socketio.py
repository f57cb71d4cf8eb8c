"""Routes of Socket.IO and Engine.IO: their own path, static files, and the application behind them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.template import below, template


def matches(app: Any) -> bool:
    return is_a(app, "engineio", "ASGIApp", "WSGIApp")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """Requests below its path are its own; the others are for its static files and for the application behind it."""
    if app.engineio_path is None:
        return [Route("/{path:path}", ANY, "socketio")]
    rows = [Route(below(template([app.engineio_path.rstrip("/")])), ANY, "socketio")]
    for path, file in app.static_files.items():
        folder = isinstance(file, str) and (path.endswith("/") or "." not in file.rpartition("/")[2])
        prefix = path.rstrip("/")
        covered = below(template([prefix]) if prefix else "") if folder else template([path])
        rows.append(Route(covered, ("GET",), "static files"))
    other = getattr(app, "other_asgi_app", None) or getattr(app, "wsgi_app", None)
    if other is None:
        return rows
    inner = routes_of(other)
    return rows + (inner if inner is not None else [Route("/{path:path}", ANY)])


def notes(app: Any) -> Iterator[Note]:
    yield Note("Socket.IO answers requests in front of the application")
