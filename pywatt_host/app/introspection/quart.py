"""Routes of Quart, WebSockets included."""

from __future__ import annotations

from typing import Any

from pywatt_host.app.introspection.route import Route, RoutesOf, is_a
from pywatt_host.app.introspection.werkzeug import rules


def matches(app: Any) -> bool:
    return is_a(app, "quart", "Quart")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    return rules(app.url_map)
