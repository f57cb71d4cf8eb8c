"""Routes of Flask, its static folder included."""

from __future__ import annotations

from typing import Any

from pywatt_host.app.introspection.route import Route, is_a
from pywatt_host.app.introspection.werkzeug import rules


def matches(app: Any) -> bool:
    return is_a(app, "flask", "Flask")


def routes(app: Any) -> list[Route]:
    """Without the HEAD and OPTIONS that Flask adds to every rule; an OPTIONS that the rule names stays."""
    return rules(app.url_map)
