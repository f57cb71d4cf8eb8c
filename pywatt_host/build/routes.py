"""From the manifest's `endpoints` and the applications' own routes to the table that the edge matches against."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import NamedTuple, TypeAlias

from pywatt_host.app.applications import Application
from pywatt_host.app.route_report import _sample
from pywatt_host.http.ambiguous_paths import AmbiguousPaths
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.exchange import Plan
from pywatt_host.http.guard import Guard
from pywatt_host.http.routes import Routes
from pywatt_host.manifest.model import AutoEndpoints, Manifest, Requirement, Rule
from pywatt_host.manifest.model.endpoints import EndpointOptions
from pywatt_host.net.limits import Gate, RateLimiter
from pywatt_host.observability.metrics import UNMATCHED, NoRequestMetrics, RequestMetrics

# What stands before an endpoint that asks for this; None: nothing.
Guards: TypeAlias = Callable[[Requirement | None], Guard | None]


@dataclass(frozen=True, slots=True)
class _Planner:
    """Makes plans: the options of an endpoint or rule over the defaults of `server`."""

    manifest: Manifest
    metrics: RequestMetrics | NoRequestMetrics
    guards: Guards
    default: Guard | None = None  # of what says nothing of its own

    def plan(self, route: str, options: EndpointOptions | None = None, key: str = "") -> Plan:
        server = self.manifest.server
        plan = Plan(
            route,
            self.metrics.cells(route),
            timeout=server.timeouts.request,
            body=server.limits.body,
            guard=self.default,
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
        if options.auth is not None:
            plan.guard = self.guards(options.auth)
        return plan


def compile_routes(
    manifest: Manifest,
    applications: Iterable[Application],
    metrics: RequestMetrics | NoRequestMetrics,
    guards: Guards,
    *,
    health: bool = False,
) -> Routes:
    """The table of a running host. `health`: an application serves the health path itself, which is open then, unless
    an endpoint or a rule for it says otherwise; whoever probes has no credential."""
    endpoints = manifest.endpoints
    table: Table[Plan] = Table()
    probed = ("GET",) if health else ()
    if not isinstance(endpoints, AutoEndpoints):
        planner = _Planner(manifest, metrics, guards)
        unmatched = planner.plan(UNMATCHED)
        for number, endpoint in enumerate(endpoints):
            table.add(endpoint.path, endpoint.methods, planner.plan(endpoint.path, endpoint, f"endpoints[{number}]"))
        if health and lookup(table.match(manifest.health.path) or {}, "GET") is None:
            table.add(manifest.health.path, probed, unmatched)  # a list need not name what `health` does already
        templates = [(each.path, each.methods, guards(each.auth)) for each in endpoints]
        ambiguous = AmbiguousPaths(table, templates, None) if _mixed(table) else None
        return Routes(table, True, unmatched, ambiguous=ambiguous)
    planner = _Planner(manifest, metrics, guards, guards(endpoints.auth))
    unmatched = planner.plan(UNMATCHED)
    if health:
        table.add(manifest.health.path, probed, replace(planner, default=None).plan(UNMATCHED))
    for application in applications:
        for route in application.routes or ():
            _add_new(table, route.path, route.methods, planner)
    templates = [(route.path, route.methods, planner.default) for each in applications for route in each.routes or ()]
    if not endpoints.rules:
        ambiguous = AmbiguousPaths(table, templates, unmatched) if _mixed(table, unmatched) else None
        return Routes(table, False, unmatched, ambiguous=ambiguous)
    ruled = _Ruled(planner, endpoints.rules, unmatched)
    templates += [
        (rule.path, rule.methods, guards(rule.auth) if rule.auth is not None else planner.default)
        for rule in endpoints.rules
    ]
    mixed = _mixed(table, unmatched) or len(ruled.guards | {planner.default}) > 1
    ambiguous = AmbiguousPaths(table, templates, unmatched, ruled) if mixed else None
    return Routes(table, False, unmatched, ruled.plan_for, ambiguous)


def _mixed(table: Table[Plan], *more: Plan) -> bool:
    """Whether not all endpoints ask for the same."""
    return len({plan.guard for plan in (*(plan for methods in table for plan in methods.values()), *more)}) > 1


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

    @property
    def guards(self) -> set[Guard | None]:
        """Of all rules."""
        return {plan.guard for methods in self._rules for _, plan in methods.values()}

    def guards_at(self, path: str) -> set[Guard | None]:
        """Of every rule for the path, whatever the method."""
        return {plan.guard for _, plan in (self._rules.match(path) or {}).values()}

    def is_literal(self, path: str) -> bool:
        """Whether a rule names the path as it stands."""
        return self._rules.is_literal(path)

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
                found.route, found.cells, plan.timeout, plan.body, plan.gate, plan.rate, plan.guard, plan.keys
            )
        return joined


def announced(manifest: Manifest, applications: Iterable[Application], routes: Routes | None) -> list[Announced]:
    """What an orchestrator is told of: what is declared, else the applications' own routes (one whose routes cannot be
    read serves everything under its prefix); and the health path, never the metrics. One for each path and what its
    methods ask for; `routes` are those of the running host."""
    found: dict[tuple[str, str], dict[str, None]] = {}

    def add(path: str, methods: Iterable[str]) -> None:
        for method in methods:
            found.setdefault((path, _asked(routes, path, method)), {})[method] = None

    if isinstance(manifest.endpoints, AutoEndpoints):
        for application in applications:
            everything = f"{application.prefix.rstrip('/')}/{{path:path}}"
            for path, methods in [(route.path, route.methods) for route in application.routes or ()] or [
                (everything, ("*",))
            ]:
                add(path, methods)
    else:
        for endpoint in manifest.endpoints:
            add(endpoint.path, endpoint.methods)
    if manifest.health.enabled and manifest.server.admin is None:
        path = manifest.health.path
        if not any(known == path and "GET" in methods for (known, _), methods in found.items()):
            found.setdefault((path, ""), {})["GET"] = None
    return [Announced(path, tuple(methods), auth) for (path, auth), methods in found.items()]


def _asked(routes: Routes | None, path: str, method: str) -> str:
    """The schemes that a template's method asks for, between commas; empty for none."""
    if routes is None:
        return ""
    sample = _sample(path)
    plan = lookup(routes.table.match(sample) or {}, method)
    if routes.plan_for is not None:
        plan = routes.plan_for(plan, sample, method)
    guard = (plan or routes.unmatched).guard
    return ",".join(guard.schemes) if guard is not None else ""


class Announced(NamedTuple):
    """An endpoint as an orchestrator is told of it; `auth` has the names of schemes between commas, or nothing."""

    path: str
    methods: tuple[str, ...]
    auth: str = ""


# What `routes` and `validate` show ------------------------------------------------------------------------------------
