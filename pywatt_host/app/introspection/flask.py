"""Routes of Flask, its static folder included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection.route import Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.werkzeug import rules


def matches(app: Any) -> bool:
    return is_a(app, "flask", "Flask")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The rules, without the HEAD and OPTIONS that Flask adds by itself; an OPTIONS that a rule names is kept."""
    return rules(app.url_map)


def notes(app: Any) -> Iterator[Note]:
    """Functions that see every request, also one without a rule, and may answer it or change the answer."""
    for name in ("before_request", "after_request", "before_websocket", "after_websocket"):
        functions = getattr(app, f"{name}_funcs", {}).get(None, ())
        if functions:
            yield Note(f"a function of {name} ({functions[0].__module__}) may answer requests itself")
    for code, handlers in app.error_handler_spec.get(None, {}).items():
        if code in (404, 405) or any(cls.__name__ in ("Exception", "HTTPException") for cls in handlers):
            yield Note("an error handler answers paths without a route")
