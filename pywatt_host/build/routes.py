"""The table of endpoints that the edge matches against, made from `endpoints` and the applications' own routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from pywatt_host.app.applications import Application
from pywatt_host.app.route_report import sample_path
from pywatt_host.http.ambiguous_paths import AmbiguousPaths
from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.exchange import Plan
from pywatt_host.http.guard import Guard
from pywatt_host.http.routes import Routes
from pywatt_host.manifest.model import AutoEndpoints, Endpoint, Manifest, Requirement, Rule
from pywatt_host.manifest.values.paths import everything_below
from pywatt_host.net.limits import Gate, Limits, RateLimiter
from pywatt_host.observability.metrics import UNMATCHED, NoRequestMetrics, RequestMetrics

# The guard of endpoints with this requirement; None where they need no credential.
Guards: TypeAlias = Callable[[Requirement | None], Guard | None]


@dataclass(frozen=True, slots=True)
class _Planner:
    """Makes plans from the options of an endpoint or rule and the defaults of `server`."""

    manifest: Manifest
    metrics: RequestMetrics | NoRequestMetrics
    guards: Guards
    limits: Limits
    default: Guard | None = None  # of endpoints without `auth`

    def plan(self, route: str, options: Endpoint | Rule | None = None, key: str = "") -> Plan:
        """The plan of a route. `key` is the place of `options` in the manifest."""
        server = self.manifest.server
        timeout, body, guard = server.timeouts.request, server.limits.body, self.default
        gate: Gate | None = None
        rate: RateLimiter | None = None
        keys = {"timeout": "server.timeouts.request", "body": "server.limits.body"}
        if options is not None:
            given = options.model_fields_set
            name = f"{' '.join(sorted(options.methods))} {options.path}"  # is the same after a reload, `key` may not be
            if "timeout" in given:
                timeout, keys["timeout"] = options.timeout, f"{key}.timeout"
            if "body" in given:
                body, keys["body"] = options.body, f"{key}.body"
            if options.concurrency is not None:
                gate, keys["concurrency"] = self.limits.gate(name, options.concurrency), f"{key}.concurrency"
            if options.rate_limit is not None:
                rate, keys["rate"] = self.limits.rate_limiter(name, options.rate_limit), f"{key}.rate_limit"
            if options.auth is not None:
                guard = self.guards(options.auth)
        return Plan(route, self.metrics.cells(route), timeout, body, gate, rate, guard, keys)


def compile_routes(
    manifest: Manifest,
    applications: Iterable[Application],
    metrics: RequestMetrics | NoRequestMetrics,
    guards: Guards,
    limits: Limits,
    *,
    health: bool = False,
) -> Routes:
    """The table of a running host. The applications must be loaded.

    With `health` an application serves the health path itself. That path needs no credential then, since probes have
    none, unless an endpoint or a rule for it says otherwise.
    """
    endpoints = manifest.endpoints
    table: Table[Plan] = Table()
    probed = ("GET",) if health else ()
    if not isinstance(endpoints, AutoEndpoints):
        planner = _Planner(manifest, metrics, guards, limits)
        unmatched = planner.plan(UNMATCHED)
        for number, endpoint in enumerate(endpoints):
            table.add(endpoint.path, endpoint.methods, planner.plan(endpoint.path, endpoint, f"endpoints[{number}]"))
        if health and lookup(table.match(manifest.health.path) or {}, "GET") is None:
            table.add(manifest.health.path, probed, unmatched)  # `health` need not be listed again
        templates = [(each.path, each.methods, guards(each.auth)) for each in endpoints]
        ambiguous = AmbiguousPaths(table, templates, None) if _mixed(table) else None
        return Routes(table, True, unmatched, ambiguous=ambiguous)
    planner = _Planner(manifest, metrics, guards, limits, guards(endpoints.auth))
    unmatched = planner.plan(UNMATCHED)
    if health:
        table.add(manifest.health.path, probed, replace(planner, default=None).plan(UNMATCHED))
    for application in applications:
        for route in application.routes or ():
            _add_new(table, route.path, route.methods, planner)
    served = [(route.path, route.methods) for each in applications for route in each.routes or ()]
    if not endpoints.rules:
        templates = [(path, methods, planner.default) for path, methods in served]
        ambiguous = AmbiguousPaths(table, templates, unmatched) if _mixed(table, unmatched) else None
        return Routes(table, False, unmatched, ambiguous=ambiguous)
    ruled = _Ruled(planner, endpoints.rules, unmatched)
    templates = [each for path, methods in served for each in ruled.guarded(path, methods)]
    templates += [
        (rule.path, rule.methods, guards(rule.auth) if rule.auth is not None else planner.default)
        for rule in endpoints.rules
    ]
    mixed = _mixed(table, unmatched) or len(ruled.guards | {planner.default}) > 1
    ambiguous = AmbiguousPaths(table, templates, unmatched, ruled) if mixed else None
    return Routes(table, False, unmatched, ruled.plan_for, ambiguous)


def _mixed(table: Table[Plan], *more: Plan) -> bool:
    """Whether endpoints differ in the credential that they need."""
    return len({plan.guard for plan in (*(plan for methods in table for plan in methods.values()), *more)}) > 1


def _add_new(table: Table[Plan], path: str, methods: Iterable[str], planner: _Planner) -> None:
    """Add a route. Where an application has the path twice, the first one counts, as in the application."""
    for method in methods:
        try:
            table.add(path, (method,), planner.plan(path))
        except ValueError:
            continue


class _Ruled:
    """The plans of requests under the manifest's rules: the application's route with the limits of the rule.

    The rate and the concurrency of a rule are shared by all requests under the rule.
    """

    def __init__(self, planner: _Planner, rules: Iterable[Rule], unmatched: Plan) -> None:
        self._unmatched = unmatched
        self._rules: Table[tuple[Rule, Plan]] = Table()
        self._plans: dict[tuple[str, str], Plan] = {}
        for number, rule in enumerate(rules):
            self._rules.add(
                rule.path, rule.methods, (rule, planner.plan(rule.path, rule, f"endpoints.rules[{number}]"))
            )
        self._rules.add_other_spellings()

    @property
    def guards(self) -> set[Guard | None]:
        """The guards of all rules."""
        return {plan.guard for methods in self._rules for _, plan in methods.values()}

    def guards_at(self, path: str) -> set[Guard | None]:
        """The guards of every rule for the path, for any method."""
        return {plan.guard for _, plan in (self._rules.match(path) or {}).values()}

    def guarded(self, template: str, methods: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...], Guard | None]]:
        """The guards of an application's route, each with the methods that it is for."""
        sample = sample_path(template)
        for method in methods:
            yield template, (method,), self.plan_for(None, sample, method).guard
        for method, (_, plan) in (self._rules.match(sample) or {}).items():
            yield template, (method,), plan.guard

    def is_literal(self, path: str) -> bool:
        """Whether a rule without parameters is the path."""
        return self._rules.is_literal(path)

    def plan_for(self, found: Plan | None, path: str, method: str) -> Plan:
        methods = self._rules.match(path)
        ruled = lookup(methods, method) if methods is not None else None
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
    """The endpoints to announce to an orchestrator: one for each path and the schemes that its methods need.

    These are the declared endpoints, or under `endpoints: auto` the applications' own routes (everything under its
    prefix, for an application whose route table cannot be read); and the health path, but not that of metrics. `routes`
    is the table of the running host.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}

    def add(path: str, methods: Iterable[str]) -> None:
        for method in methods:
            found.setdefault((path, _schemes(routes, path, method)), {})[method] = None

    if isinstance(manifest.endpoints, AutoEndpoints):
        for application in applications:
            everything = everything_below(application.prefix)
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


def _schemes(routes: Routes | None, path: str, method: str) -> str:
    """The names of the schemes that a method of a template needs, separated by commas; empty for none."""
    if routes is None:
        return ""
    sample = sample_path(path)
    plan = lookup(routes.table.match(sample) or {}, method)
    if routes.plan_for is not None:
        plan = routes.plan_for(plan, sample, method)
    guard = (plan or routes.unmatched).guard
    return ",".join(guard.schemes) if guard is not None else ""


class Announced(NamedTuple):
    """An endpoint to announce; `auth` has the names of the schemes, separated by commas."""

    path: str
    methods: tuple[str, ...]
    auth: str = ""
