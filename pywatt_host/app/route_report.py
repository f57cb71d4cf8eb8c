"""Routes that the manifest declares compared with routes that the applications serve, for `routes` and `validate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from pywatt_host.app.applications import Application
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.manifest.model import AutoEndpoints, Endpoint, Manifest, Requirement, Rule
from pywatt_host.manifest.values.paths import covers, everything_below, is_parameter, other_spelling


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One route of the comparison.

    `state` is `served` (declared and served, or served under `endpoints: auto`), `missing` (declared, but not served),
    `undeclared` (served by the application, but not declared, so the host answers 404), `unknown` (the application's
    route table cannot be read, or it is partial) or `partial` (the row stands for all paths that a partial table does
    not have).
    """

    path: str
    methods: tuple[str, ...]
    app: str
    state: str
    summary: str = ""
    auth: str = ""  # the credential it needs: `jwt`, `jwt or key, scopes admin`; empty for none
    name: str = ""  # the framework's name of the handler; only under `endpoints: auto`, like the next two
    options: bool = False  # the framework answers OPTIONS by itself
    slashes: bool = False  # the framework redirects the path with, or without, a slash at its end to this one


def compare(manifest: Manifest, applications: Iterable[Application]) -> list[RouteRow]:
    """Compare declared with served routes. The applications must be loaded. A WebSocket counts as one method of its
    path."""
    applications = list(applications)
    rows: list[RouteRow] = []
    served: Table[str] = Table()
    opaque = [application for application in applications if application.routes is None or application.partial]
    for application in applications:
        for route in application.routes or ():
            for method in (*route.methods, *(("OPTIONS",) if route.options else ())):
                try:
                    served.add(route.path, (method,), application.name)
                except ValueError:
                    continue
    if isinstance(manifest.endpoints, AutoEndpoints):
        summaries = {rule.path: rule.summary or "" for rule in manifest.endpoints.rules}
        required = _RequiredAuth(manifest.endpoints, probed=_probed(manifest))
        for application in applications:
            for route in application.routes or ():
                summary = summaries.get(route.path, "")
                for auth, names in required.by_method(route.path, route.methods).items():
                    row = RouteRow(route.path, names, application.name, "served", summary, auth, route.name)
                    rows.append(replace(row, options=route.options, slashes=route.slashes))
        return rows + [_rest(application, required) for application in applications if application.partial]
    _add_redirected(served, applications)
    declared: Table[Endpoint] = Table()
    for endpoint in manifest.endpoints:
        declared.add(endpoint.path, endpoint.methods, endpoint)
        there = served.match(sample_path(endpoint.path))
        present = there is not None and all(_present(there, method) for method in endpoint.methods)
        owner = next(iter(there.values())) if there else ""
        state = "served" if present else "unknown" if _under_opaque(endpoint.path, opaque) else "missing"
        auth = _shown(endpoint.auth)
        rows.append(RouteRow(endpoint.path, endpoint.methods, owner, state, endpoint.summary or "", auth))
    for application in applications:
        if application.framework == "static":
            continue
        for route in application.routes or ():
            methods = declared.match(sample_path(route.path)) or {}
            left = tuple(method for method in route.methods if not _present(methods, method))
            if left:
                rows.append(RouteRow(route.path, left, application.name, "undeclared"))
    return rows + [_rest(application, None) for application in applications if application.partial]


def _add_redirected(served: Table[str], applications: Iterable[Application]) -> None:
    """Add the paths that a framework redirects, with or without a slash at the end, to those of its routes."""
    for application in applications:
        for route in application.routes or ():
            other = other_spelling(route.path)
            if other is None or not route.slashes:
                continue
            for method in (*route.methods, *(("OPTIONS",) if route.options else ())):
                if method not in (served.match(sample_path(other)) or {}):
                    served.add(other, (method,), application.name)


def _rest(application: Application, required: _RequiredAuth | None) -> RouteRow:
    """The row for the paths that a partial table does not have: of `endpoints: auto` with the credential that they
    need."""
    path = everything_below(application.prefix)
    auth = required.of_unmatched if required is not None else ""
    return RouteRow(path, ("*",), application.name, "partial", application.partial, auth)


class HiddenRoute(NamedTuple):
    """A route of an application that a path of the host hides. `key` is the manifest key of that path."""

    key: str
    path: str
    app: str

    def __str__(self) -> str:
        return f"the host answers {self.path} itself, and hides the route of {self.app} there"

    @property
    def hint(self) -> str:
        """What to do about it."""
        return f"set {self.key} to another path, such as /host{self.path}, or remove the route from the application"


def hidden_routes(manifest: Manifest, applications: Iterable[Application]) -> list[HiddenRoute]:
    """The routes that the host's own paths hide, as far as route tables can be read: a route for GET at the path, and
    an application that is mounted there. The health path hides none, since the application's report has priority."""
    health, metrics = manifest.health, manifest.metrics
    if manifest.server.admin is not None:
        return []
    keys = {"metrics.path": metrics.path} if metrics.enabled else {}
    if health.enabled:
        keys |= {"health.liveness": health.liveness, "health.readiness": health.readiness}
    applications = list(applications)
    found = []
    for key, path in keys.items():
        covering = [application for application in applications if covers(application.prefix, path)]
        owner = max(covering, key=lambda application: len(application.prefix), default=None)
        if owner is not None and any(
            lookup(dict.fromkeys(route.methods, True), "GET") and _is_at(route.path, path)
            for route in owner.routes or ()
        ):
            found.append(HiddenRoute(key, path, owner.name))
    return found


def _probed(manifest: Manifest) -> str:
    """The path of health probes on the public listener; empty where there is none."""
    return manifest.health.path if manifest.health.enabled and manifest.server.admin is None else ""


def _is_at(template: str, path: str) -> bool:
    rest = template.removeprefix(path)
    return rest != template and (rest in ("", "/") or (rest.startswith("/{") and rest.endswith(":path}")))


class _RequiredAuth:
    """The credentials that routes need under the rules of `endpoints`."""

    def __init__(self, endpoints: AutoEndpoints, probed: str = "") -> None:
        """`probed` is the path of health probes, which need no credential unless a rule says so."""
        self._default = endpoints.auth
        self._probed = probed
        self._rules: Table[Rule] = Table()
        for rule in endpoints.rules:
            self._rules.add(rule.path, rule.methods, rule)
        self._rules.add_other_spellings()

    @property
    def of_unmatched(self) -> str:
        """The credential of a path without a route."""
        return _shown(self._default)

    def by_method(self, path: str, methods: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """The methods of a route by the credential that they need."""
        rules = self._rules.match(sample_path(path)) or {}
        found: dict[str, tuple[str, ...]] = {}
        for method in methods:
            rule = lookup(rules, method) or rules.get("*")
            default = None if path == self._probed and method in ("GET", "HEAD") and rule is None else self._default
            auth = _shown(rule.auth if rule is not None and rule.auth is not None else default)
            found[auth] = (*found.get(auth, ()), method)
        return found


def _shown(requirement: Requirement | None) -> str:
    if requirement is None or requirement.open:
        return ""
    parts = [" or ".join(requirement.scheme)]
    if requirement.scopes:
        parts.append(f"scopes {' '.join(requirement.scopes)}")
    if requirement.claims:
        parts.append(f"claims {' '.join(requirement.claims)}")
    return ", ".join(parts)


def _present(methods: Mapping[str, object], method: str) -> bool:
    return bool(methods) if method == "*" else lookup(methods, method) is not None


def sample_path(template: str) -> str:
    """A path that the template matches and other templates with literal segments most likely do not."""
    return "/".join("\x00" if is_parameter(segment) else segment for segment in template.split("/"))


def _under_opaque(path: str, opaque: Iterable[Application]) -> bool:
    return any(covers(application.prefix, path) for application in opaque)
