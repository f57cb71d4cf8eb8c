"""Rules that protect a path which no application has: most often, the path is misspelled and the route is open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pywatt_host.app.applications import Application
from pywatt_host.app.introspection import Route
from pywatt_host.http.endpoints import lookup
from pywatt_host.manifest.model import AutoEndpoints, Endpoint, Manifest, Rule
from pywatt_host.manifest.problems import near_miss
from pywatt_host.manifest.values.paths import everything_below, is_rest, overlap


class UnmatchedRule(NamedTuple):
    """A rule or an endpoint that requires a credential and that no route of an application fits. `key` is the manifest
    key of its path, and `meant` the path that was probably meant; empty where none is similar. `served` are the methods
    that the path has; empty where no application has the path. With `partial`, an application for the path has a table
    that is known to be partial."""

    key: str
    path: str
    methods: tuple[str, ...]
    meant: str
    served: tuple[str, ...]
    partial: bool = False

    def __str__(self) -> str:
        methods = "" if "*" in self.methods else f"{' '.join(self.methods)} "
        if self.partial:
            return f"no route that can be read fits {methods}{self.path}, so this may protect nothing"
        return f"no application has a route for {methods}{self.path}, so this protects nothing"

    @property
    def hint(self) -> str:
        """What was probably meant."""
        if self.served:
            return f"its methods are {', '.join(self.served)}"
        if self.meant:
            return f"did you mean {self.meant}?"
        return "run `pywatt-host routes` to see the routes"


def unmatched_rules(manifest: Manifest, applications: Iterable[Application]) -> list[UnmatchedRule]:
    """The protecting rules and endpoints that fit no route. The applications must be loaded. A rule that may be for an
    application whose routes cannot be read is not among them, nor one for an application with a partial table, unless a
    similar route exists."""
    applications = list(applications)
    opaque = [everything_below(application.prefix) for application in applications if application.routes is None]
    partial = [everything_below(application.prefix) for application in applications if application.partial]
    routes = [route for application in applications for route in application.routes or ()]
    found: list[UnmatchedRule] = []
    for key, rule in _protecting(manifest):
        there = [route for route in routes if overlap(rule.path, route.path)]
        if any(_share_a_method(rule.methods, route.methods) for route in there):
            continue
        if not any(overlap(rule.path, template) for template in opaque):
            served = tuple(dict.fromkeys(method for route in there for method in route.methods))
            meant, doubtful = _meant(rule.path, routes), any(overlap(rule.path, template) for template in partial)
            if not doubtful or meant:
                found.append(UnmatchedRule(key, rule.path, rule.methods, meant, served, doubtful))
    return found


def _protecting(manifest: Manifest) -> Iterator[tuple[str, Endpoint | Rule]]:
    endpoints = manifest.endpoints
    declared: Sequence[Endpoint | Rule] = endpoints.rules if isinstance(endpoints, AutoEndpoints) else endpoints
    key = "endpoints.rules" if isinstance(endpoints, AutoEndpoints) else "endpoints"
    for number, rule in enumerate(declared):
        if rule.auth is not None and not rule.auth.open:
            yield f"{key}[{number}].path", rule


def _share_a_method(methods: Sequence[str], served: Sequence[str]) -> bool:
    """Whether any request may have a method of both."""
    if "*" in methods:
        return True
    routes = dict.fromkeys(served, True)
    return any(lookup(routes, method) for method in methods) or any(method in methods for method in served)


def _meant(path: str, routes: Iterable[Route]) -> str:
    """The path of a route that is similar; for a rule with `{rest:path}`, a similar prefix of routes."""
    head, _, last = path.rpartition("/")
    if not is_rest(last):
        return near_miss(path, [route.path for route in routes]) or ""
    length = head.count("/") + 1
    prefixes = ["/".join(route.path.split("/")[:length]) for route in routes if route.path.count("/") >= length - 1]
    meant = near_miss(head, prefixes)
    return f"{meant}/{last}" if meant else ""
