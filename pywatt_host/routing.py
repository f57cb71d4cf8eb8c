"""From the manifest's `endpoints` and the applications' own routes to the table that the edge matches against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from time import monotonic

from pywatt_host.app import Application
from pywatt_host.http.edge import Routes
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.exchange import Plan
from pywatt_host.http.limits import Gate, RateLimiter
from pywatt_host.http.metrics import UNMATCHED, NoRequestMetrics, RequestMetrics
from pywatt_host.manifest.model import AutoEndpoints, Endpoint, Manifest, Rule
from pywatt_host.manifest.model.endpoints import EndpointOptions


@dataclass(frozen=True, slots=True)
class _Planner:
    """Makes plans: the options of an endpoint or rule over the defaults of `server`."""

    manifest: Manifest
    metrics: RequestMetrics | NoRequestMetrics

    def plan(self, route: str, options: EndpointOptions | None = None, key: str = "") -> Plan:
        server = self.manifest.server
        plan = Plan(
            route,
            self.metrics.cells(route),
            timeout=server.timeouts.request,
            body=server.limits.body,
            keys={"timeout": "server.timeouts.request", "body": "server.limits.body"},
        )
        if options is None:
            return plan
        given = options.model_fields_set
        if "timeout" in given:
            plan.timeout, plan.keys["timeout"] = options.timeout, f"{key}.timeout"
        if "body" in given:
            plan.body, plan.keys["body"] = options.body, f"{key}.body"
        if options.concurrency is not None:
            plan.gate, plan.keys["concurrency"] = Gate(options.concurrency), f"{key}.concurrency"
        if options.rate_limit is not None:
            plan.rate, plan.keys["rate"] = RateLimiter(options.rate_limit, monotonic), f"{key}.rate_limit"
        return plan


def compile_routes(
    manifest: Manifest, applications: Iterable[Application], metrics: RequestMetrics | NoRequestMetrics
) -> Routes:
    """The table of a running host."""
    planner = _Planner(manifest, metrics)
    table: Table[Plan] = Table()
    unmatched = planner.plan(UNMATCHED)
    if not isinstance(manifest.endpoints, AutoEndpoints):
        for number, endpoint in enumerate(manifest.endpoints):
            table.add(endpoint.path, endpoint.methods, planner.plan(endpoint.path, endpoint, f"endpoints[{number}]"))
        return Routes(table, True, unmatched)
    for application in applications:
        for route in application.routes or ():
            _add_new(table, route.path, route.methods, planner)
    if not manifest.endpoints.rules:
        return Routes(table, False, unmatched)
    ruled = _Ruled(planner, manifest.endpoints.rules, unmatched)
    return Routes(table, False, unmatched, ruled.plan_for)


def _add_new(table: Table[Plan], path: str, methods: Iterable[str], planner: _Planner) -> None:
    """An application may have one path twice; the first that it would serve gives the plan."""
    for method in methods:
        try:
            table.add(path, (method,), planner.plan(path))
        except ValueError:
            continue


class _Ruled:
    """The application's own routes under the manifest's rules: the route names the request, the rule bounds it.

    The limits of a rule (its rate, its concurrency) hold for all requests under the rule together.
    """

    def __init__(self, planner: _Planner, rules: Iterable[Rule], unmatched: Plan) -> None:
        self._planner = planner
        self._unmatched = unmatched
        self._rules: Table[tuple[Rule, Plan]] = Table()
        self._plans: dict[tuple[str, str], Plan] = {}
        for number, rule in enumerate(rules):
            value = (rule, planner.plan(rule.path, rule, f"endpoints.rules[{number}]"))
            self._rules.add(rule.path, rule.methods, value)
            if not rule.path.endswith(("/", ":path}")):
                self._rules.add(rule.path + "/", rule.methods, value)

    def plan_for(self, found: Plan | None, path: str, method: str) -> Plan:
        methods = self._rules.match(path)
        ruled = lookup(methods, method) if methods is not None else None
        if ruled is None and methods is not None and method == "WEBSOCKET":
            ruled = methods.get("*")
        if ruled is None:
            return found or self._unmatched
        rule, plan = ruled
        if found is None or found.route == rule.path:
            return plan
        key = (found.route, rule.path)
        joined = self._plans.get(key)
        if joined is None:
            joined = self._plans[key] = Plan(
                found.route, found.cells, plan.timeout, plan.body, plan.gate, plan.rate, plan.keys
            )
        return joined


def announced(manifest: Manifest, applications: Iterable[Application]) -> list[tuple[str, tuple[str, ...]]]:
    """Paths and methods that an orchestrator is told of: what is declared, else the applications' own routes (one whose
    routes cannot be read serves everything under its prefix); and the health path, never the metrics."""
    found: dict[str, dict[str, None]] = {}
    if isinstance(manifest.endpoints, AutoEndpoints):
        for application in applications:
            everything = f"{application.prefix.rstrip('/')}/{{path:path}}"
            for path, methods in [(route.path, route.methods) for route in application.routes or ()] or [
                (everything, ("*",))
            ]:
                found.setdefault(path, {}).update(dict.fromkeys(methods))
    else:
        for endpoint in manifest.endpoints:
            found.setdefault(endpoint.path, {}).update(dict.fromkeys(endpoint.methods))
    if manifest.health.enabled and manifest.server.admin is None:
        found.setdefault(manifest.health.path, {}).update({"GET": None})
    return [(path, tuple(methods)) for path, methods in found.items()]


# What `routes` and `validate` show ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RouteRow:
    """One line of the comparison between what is declared and what the application serves.

    `state`: `served` (declared and there, or auto), `missing` (declared, not in the application), `undeclared` (in the
    application, not declared, hence 404 under a list), `unknown` (the application's table cannot be read).
    """

    path: str
    methods: tuple[str, ...]
    app: str
    state: str
    summary: str = ""
    name: str = ""  # what the framework calls the handler; under `endpoints: auto` only


def compare(manifest: Manifest, applications: Iterable[Application]) -> list[RouteRow]:
    """Declared against served. Applications must be loaded; a WebSocket and its path count as one method."""
    applications = list(applications)
    rows: list[RouteRow] = []
    served: Table[str] = Table()
    opaque = [application for application in applications if application.routes is None]
    for application in applications:
        for route in application.routes or ():
            for method in route.methods:
                try:
                    served.add(route.path, (method,), application.name)
                except ValueError:
                    continue
    if isinstance(manifest.endpoints, AutoEndpoints):
        summaries = {rule.path: rule.summary or "" for rule in manifest.endpoints.rules}
        for application in applications:
            for route in application.routes or ():
                rows.append(
                    RouteRow(
                        route.path, route.methods, application.name, "served", summaries.get(route.path, ""), route.name
                    )
                )
        return rows
    declared: Table[Endpoint] = Table()
    for endpoint in manifest.endpoints:
        declared.add(endpoint.path, endpoint.methods, endpoint)
        there = served.match(_sample(endpoint.path))
        present = there is not None and all(_present(there, method) for method in endpoint.methods)
        owner = next(iter(there.values())) if there else ""
        state = "served" if present else "unknown" if _under_opaque(endpoint.path, opaque) else "missing"
        rows.append(RouteRow(endpoint.path, endpoint.methods, owner, state, endpoint.summary or ""))
    for application in applications:
        if application.framework == "static":
            continue
        for route in application.routes or ():
            methods = declared.match(_sample(route.path)) or {}
            left = tuple(method for method in route.methods if not _present(methods, method))
            if left:
                rows.append(RouteRow(route.path, left, application.name, "undeclared"))
    return rows


def _present(methods: Mapping[str, object], method: str) -> bool:
    return bool(methods) if method == "*" else lookup(methods, method) is not None


def _sample(template: str) -> str:
    """A path that a template fits, which no literal segment is likely to fit."""
    return "/".join("\x00" if segment.startswith("{") else segment for segment in template.split("/"))


def _under_opaque(path: str, opaque: Iterable[Application]) -> bool:
    return any(a.prefix == "/" or path == a.prefix or path.startswith(a.prefix + "/") for a in opaque)
