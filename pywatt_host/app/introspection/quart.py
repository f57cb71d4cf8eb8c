"""Routes of Quart, WebSockets included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection import flask
from pywatt_host.app.introspection.route import Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.werkzeug import rules


def matches(app: Any) -> bool:
    return is_a(app, "quart", "Quart")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    return rules(app.url_map)


def notes(app: Any) -> Iterator[Note]:
    return flask.notes(app)
