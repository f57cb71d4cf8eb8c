"""Requests whose path an application may read differently from the edge, which would get around a guard.

The edge matches one reading of a path and one method. An application may ignore case, strip path parameters, decode a
path twice, or answer any method as if it were GET. That changes nothing where all endpoints need the same credential.
Where they do not, a request is refused when an application may take it for one to an endpoint that needs another
credential. A client reaches that endpoint by its own path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.exchange import Plan
from pywatt_host.http.guard import Guard
from pywatt_host.http.readings import LONGEST, is_plain, readings
from pywatt_host.manifest.values.paths import fold, is_parameter, is_rest, shape
from pywatt_host.observability.metrics import KNOWN_METHODS


class Rules(Protocol):
    """The rules of the manifest, which give the limits and guards of requests by path."""

    def plan_for(self, found: Plan | None, path: str, method: str) -> Plan: ...

    def guards_at(self, path: str) -> set[Guard | None]:
        """The guards of every rule for the path, for any method."""

    def is_literal(self, path: str) -> bool: ...


class AmbiguousPaths:
    """Finds requests that could get around a guard.

    `templates` are all declared templates, each with its methods and its guard. `unmatched` is the plan of requests
    that match no template; None where such requests are refused.
    """

    def __init__(
        self,
        table: Table[Plan],
        templates: Iterable[tuple[str, Sequence[str], Guard | None]],
        unmatched: Plan | None,
        rules: Rules | None = None,
    ) -> None:
        self._table = table
        self._unmatched = unmatched
        self._rules = rules
        folded: dict[str, list[_Declared]] = {}
        for template, methods, guard in templates:
            folded.setdefault(_folded(template), []).append(_Declared(template, frozenset(methods), guard))
        self._folded: Table[list[_Declared]] = Table()
        for template, declared in folded.items():
            self._folded.add(template, ("*",), declared)
        self._folded.add_other_spellings()

    def path_is_ambiguous(self, path: str, method: str, plan: Plan) -> bool:
        """Whether another reading of the path leads to an endpoint that needs another credential than `plan` does.
        False for a path that is declared literally."""
        if self._table.is_literal(path) or (self._rules is not None and self._rules.is_literal(path)):
            return False
        if _differ(self._in_another_spelling(path, method), plan) or (len(path) > LONGEST and not is_plain(path)):
            return True
        # A path without its last slash is the same path, unless an endpoint is declared for it.
        bare = path.rstrip("/")
        return any(
            _differ(self._in_another_spelling(reading, method), plan)
            or _differ(self._at(reading, method, declared=reading == bare), plan)
            for reading in readings(path)
        )

    def method_is_ambiguous(self, path: str, method: str, methods: Mapping[str, Plan]) -> bool:
        """Whether endpoints at the path, none of which has the method, need different credentials."""
        guards = {plan.guard for plan in methods.values()}
        if self._rules is not None:
            guards = {self._rules.plan_for(plan, path, name).guard for name, plan in methods.items()}
            guards.add(self._rules.plan_for(None, path, method).guard)
            if methods or method not in KNOWN_METHODS:
                guards |= self._rules.guards_at(path)
        return len(guards) > 1

    def _in_another_spelling(self, path: str, method: str) -> set[Guard | None]:
        """The guards of endpoints that match the path only where case, or a slash at the end, is ignored."""
        methods = self._folded.match(fold(path))
        if methods is None:
            return set()
        others = [each for each in methods["*"] if not _fits(each.template, path)]
        same = {each.guard for each in others if each.takes(method)}
        return same or {each.guard for each in others}

    def _at(self, path: str, method: str, *, declared: bool) -> set[Guard | None]:
        """The guards of the endpoint at the path for the method, or for all methods where it does not have this one.
        With `declared`, none where neither a template nor a rule matches."""
        methods = self._table.match(path) or {}
        plan = lookup(methods, method)
        if declared and not methods and (self._rules is None or not self._rules.guards_at(path)):
            return set()
        if self._rules is not None:
            if plan is not None or not methods:
                return {self._rules.plan_for(plan, path, method).guard}
            guards = {self._rules.plan_for(each, path, name).guard for name, each in methods.items()}
            return guards | self._rules.guards_at(path)
        if plan is None and not methods:
            plan = self._unmatched
        return {plan.guard} if plan is not None else {each.guard for each in methods.values()}


class _Declared(NamedTuple):
    """A template with its methods and their guard."""

    template: str
    methods: frozenset[str]
    guard: Guard | None

    def takes(self, method: str) -> bool:
        return lookup(dict.fromkeys(self.methods, True), method) is not None


def _differ(guards: set[Guard | None], plan: Plan) -> bool:
    return any(guard is not None and guard is not plan.guard for guard in guards)


def _folded(template: str) -> str:
    """The template without upper and lower case, and without the names of its parameters."""
    return "/".join(part if is_parameter(part) else fold(part) for part in shape(template).split("/"))


def _fits(template: str, path: str) -> bool:
    """Whether the template matches the path as it is written. It matches the path where neither case nor a slash at the
    end makes a difference."""
    parts, given = template.split("/"), path.split("/")
    if not is_rest(parts[-1]) and len(parts) != len(given):
        return False
    return all(is_parameter(wanted) or wanted == found for wanted, found in zip(parts, given, strict=False))
