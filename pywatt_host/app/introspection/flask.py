"""Routes of Flask, its static folder included."""

from __future__ import annotations

from typing import Any

from pywatt_host.app.introspection.route import Route, RoutesOf, is_a
from pywatt_host.app.introspection.werkzeug import rules


def matches(app: Any) -> bool:
    return is_a(app, "flask", "Flask")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The rules, without the HEAD and OPTIONS that Flask adds by itself; an OPTIONS that a rule names is kept."""
    return rules(app.url_map)
