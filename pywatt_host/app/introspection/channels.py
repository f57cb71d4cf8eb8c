"""Routes of Django Channels: one application for each protocol, and consumers under URL patterns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pywatt_host.app.introspection.django import readings
from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a
from pywatt_host.app.introspection.template import Piece, template


def matches(app: Any) -> bool:
    return is_a(app, "channels", "ProtocolTypeRouter", "URLRouter")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    if is_a(app, "channels", "URLRouter"):
        return _patterns(app, ["/"])
    rows: list[Route] = []
    for protocol, inner in app.application_mapping.items():
        if protocol not in ("http", "websocket"):
            continue
        found = routes_of(inner)
        for route in found if found is not None else [Route("/{path:path}", ANY)]:
            if protocol == "websocket":
                rows.append(Route(route.path, ("WEBSOCKET",), route.name))
            elif route.methods != ("WEBSOCKET",):
                rows.append(route)
    return rows


def notes(app: Any) -> Iterator[Note]:
    """The routers answer nothing by themselves, but consumers see requests that no URL pattern of Django has."""
    yield Note("Channels chooses the application by protocol and path")


def _patterns(router: Any, before: list[Piece]) -> list[Route]:
    """The rows of a `URLRouter`, whose patterns may lead to further ones."""
    rows: list[Route] = []
    for entry in router.routes:
        nested = is_a(entry.callback, "channels", "URLRouter")
        for pieces in readings(entry.pattern, whole=not nested):
            if nested:
                rows += _patterns(entry.callback, [*before, *pieces])
            else:
                consumer = getattr(entry.callback, "consumer_class", entry.callback)
                name = entry.name or getattr(consumer, "__name__", "")
                rows.append(Route(template([*before, *pieces]), ANY, str(name)))
    return rows
