"""Routes of Connexion 3: the operations of its specifications, and the routes of the application around them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection import starlette
from pywatt_host.app.introspection.route import Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.template import Parameter, Piece, below, template

_PARAMETER = re.compile(r"\{([^}]+)\}")


def matches(app: Any) -> bool:
    return is_a(app, "connexion", "AbstractApp", "ConnexionMiddleware")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The operations, with the pages about them. Connexion makes its own table when it starts."""
    rows: list[Route] = []
    for api in getattr(app, "middleware", app).apis:
        base = (api.base_path or api.specification.base_path or "").rstrip("/")
        for path, item in api.specification["paths"].items():
            pieces = _pieces(base + path)
            rows += [
                Route(template(pieces), (method.upper(),), str(operation.get("operationId", "")))
                for method, operation in item.items()
                if isinstance(operation, dict) and method in _METHODS
            ]
        rows += [
            Route(template([f"{base}/openapi.json"]), ("GET",)),
            Route(template([f"{base}/openapi.yaml"]), ("GET",)),
            Route(below(template([f"{base}/ui"])), ("GET",)),
        ]
    return rows + _own(app, routes_of)


_METHODS = frozenset(["get", "put", "post", "delete", "options", "head", "patch", "trace"])


def notes(app: Any) -> Iterator[Note]:
    yield Note("Connexion makes its routes when it starts", certain=True)


def _own(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The routes that were added to the application itself."""
    inner = getattr(app, "app", None) if is_a(app, "connexion", "FlaskApp", "ConnexionMiddleware") else None
    if inner is not None:
        return routes_of(inner) or []
    router = getattr(getattr(app, "_middleware_app", None), "router", None)
    return starlette.read(router.routes, routes_of) if router is not None else []


def _pieces(path: str) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for match in _PARAMETER.finditer(path):
        pieces += [path[end : match.start()], Parameter(match[1])]
        end = match.end()
    return [*pieces, path[end:]]
