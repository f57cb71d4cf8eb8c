"""Routes of Werkzeug: its rules, which Flask and Quart use, and its `DispatcherMiddleware`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from pywatt_host.app.introspection.route import ANY, Note, Route, RoutesOf, is_a, methods_of
from pywatt_host.app.introspection.template import Parameter, Piece, below, join, template


def matches(app: Any) -> bool:
    return is_a(app, "werkzeug", "DispatcherMiddleware")


def routes(app: Any, routes_of: RoutesOf) -> list[Route]:
    """The mounts, longest prefix first, then the application behind them."""
    rows: list[Route] = []
    for mount in sorted(app.mounts, key=len, reverse=True):
        prefix, inner = template([mount]), routes_of(app.mounts[mount])
        if inner is None:
            rows += [Route(prefix, ANY), Route(below(prefix), ANY)]
        else:
            rows += [replace(row, path=join(prefix, row.path)) for row in inner]
    inner = routes_of(app.app)
    return rows + (inner if inner is not None else [Route("/{path:path}", ANY)])


def notes(app: Any) -> Iterator[Note]:
    """What it mounts has notes of its own."""
    yield Note("DispatcherMiddleware mounts other applications")


def rules(url_map: Any) -> list[Route]:
    """The rules of a `werkzeug.routing.Map`, of every host and subdomain."""
    rows: list[Route] = []
    for rule in url_map.iter_rules():
        if rule.build_only:
            continue
        pieces, methods, name = _pieces(rule), _methods(rule), str(rule.endpoint)
        path = template(pieces)
        options = bool(getattr(rule, "provide_automatic_options", False)) and methods != ("WEBSOCKET",)
        redirected = rule.strict_slashes and not rule.is_leaf
        rows.append(Route(path, methods, name, options, slashes=redirected))
        if not rule.strict_slashes and not path.endswith(":path}") and path != "/":
            rows.append(Route(path.rstrip("/") if path.endswith("/") else path + "/", methods, name, options))
    return rows


def _pieces(rule: Any) -> list[Piece]:
    """The pieces of a rule. `_trace` has the parts of the rule: the host, a bar, the path."""
    trace = list(rule._trace)
    path = trace[trace.index((False, "|")) + 1 :]
    return [_parameter(rule, text) if dynamic else text for dynamic, text in path]


def _parameter(rule: Any, name: str) -> Parameter:
    """The parameter of a rule. A converter that is part_isolating matches within one segment, whatever its expression
    is."""
    converter = rule._converters[name]
    return Parameter(name, rest=not converter.part_isolating or re.fullmatch(converter.regex, "") is not None)


def _methods(rule: Any) -> tuple[str, ...]:
    if rule.websocket:
        return ("WEBSOCKET",)
    if rule.methods is None:
        return ANY
    added = {"HEAD"} if "GET" in rule.methods else set()
    if getattr(rule, "provide_automatic_options", False):
        added.add("OPTIONS")
    return methods_of(set(rule.methods) - added)
