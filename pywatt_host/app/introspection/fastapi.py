"""Routes of FastAPI, with its documentation pages, included routers and front ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection import starlette
from pywatt_host.app.introspection.route import Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.template import below, template


def matches(app: Any) -> bool:
    return is_a(app, "fastapi", "FastAPI", "APIRouter")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The routes. In recent releases an included router stays a router in the table, and its routes are made on
    demand."""
    contexts = getattr(sys.modules["fastapi.routing"], "iter_route_contexts", None)
    if contexts is None:
        return starlette.redirecting(app, starlette.read(app.routes, routes_of))
    found: list[Route] = []
    for context in contexts(app.routes):
        found += starlette.read_one(context, context.original_route, routes_of)
    return starlette.redirecting(app, found) + _front_ends(getattr(app, "router", app))


def notes(app: Any) -> Iterator[Note]:
    return starlette.notes(app)


def _front_ends(router: Any) -> list[Route]:
    """The folders of built pages that `frontend()` serves, which FastAPI tries after every other route."""
    late = getattr(router, "_iter_low_priority_routes", None)
    rows = []
    for context in late() if late else ():
        group, prefix = getattr(context, "original_route", context), getattr(context, "frontend_prefix", "")
        for route in group.routes:
            path = (prefix + route.path).rstrip("/")
            rows += [Route(template([path]), ("GET", "HEAD"))] if path else []
            rows.append(Route(below(template([path]) if path else ""), ("GET", "HEAD")))
    return rows
