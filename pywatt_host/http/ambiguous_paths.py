"""Requests that an application may read otherwise than the edge does, where that would get round a guard.

The edge matches one reading of a path and one method. An application behind it may fold case, strip parameters, resolve
what was encoded twice, or answer any method as if it were GET. Where all endpoints ask for the same, that changes
nothing. Where they do not, a request that some application may take for one to an endpoint that asks for something
else is refused: the right way to that endpoint is its own path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from pywatt_host.http.endpoints import Table, lookup
from pywatt_host.http.exchange import Plan
from pywatt_host.http.guard import Guard
from pywatt_host.http.readings import LONGEST, is_plain, readings
from pywatt_host.observability.metrics import KNOWN_METHODS


class Rules(Protocol):
    """What bounds requests by path, over what the application's own routes say."""

    def plan_for(self, found: Plan | None, path: str, method: str) -> Plan: ...

    def guards_at(self, path: str) -> set[Guard | None]:
        """Of every rule for the path, whatever the method."""

    def is_literal(self, path: str) -> bool: ...


class AmbiguousPaths:
    """`templates` are all that are declared, each with the methods and the guard that it has for them; `unmatched` is
    the plan of what no template fits, None where such a request goes nowhere."""

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
            folded.setdefault(_shape(template.casefold()), []).append(_Declared(template, frozenset(methods), guard))
        self._folded: Table[list[_Declared]] = Table()
        for template, declared in folded.items():
            self._folded.add(template, ("*",), declared)

    def path(self, path: str, method: str, plan: Plan) -> bool:
        """Whether a reading of the path leads to an endpoint that asks for something else than `plan` does. A path that
        is declared as it stands is nobody else's."""
        if self._table.is_literal(path) or (self._rules is not None and self._rules.is_literal(path)):
            return False
        if _differ(self._in_another_case(path, method), plan) or (len(path) > LONGEST and not is_plain(path)):
            return True
        # Without its last slash a path is the same one, unless an endpoint says otherwise.
        bare = path.rstrip("/")
        return any(
            _differ(self._in_another_case(reading, method), plan)
            or _differ(self._at(reading, method, declared=reading == bare), plan)
            for reading in readings(path)
        )

    def method(self, path: str, method: str, methods: Mapping[str, Plan]) -> bool:
        """Whether endpoints at the path, none of which has the method, ask for different things."""
        guards = {plan.guard for plan in methods.values()}
        if self._rules is not None:
            guards = {self._rules.plan_for(plan, path, name).guard for name, plan in methods.items()}
            guards.add(self._rules.plan_for(None, path, method).guard)
            if methods or method not in KNOWN_METHODS:
                guards |= self._rules.guards_at(path)
        return len(guards) > 1

    def _in_another_case(self, path: str, method: str) -> set[Guard | None]:
        """Of endpoints that the path is for where upper and lower case are the same, and not otherwise."""
        methods = self._folded.match(path.casefold())
        if methods is None:
            return set()
        others = [each for each in methods["*"] if not _fits(each.template, path)]
        same = {each.guard for each in others if each.takes(method)}
        return same or {each.guard for each in others}

    def _at(self, path: str, method: str, *, declared: bool) -> set[Guard | None]:
        """Of the endpoint at the path; of all methods there, where it has not this one. With `declared`, of none where
        neither a template nor a rule fits."""
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
    """A template with its guard for some methods."""

    template: str
    methods: frozenset[str]
    guard: Guard | None

    def takes(self, method: str) -> bool:
        return lookup(dict.fromkeys(self.methods, True), method) is not None


def _differ(guards: set[Guard | None], plan: Plan) -> bool:
    return any(guard is not None and guard is not plan.guard for guard in guards)


def _shape(template: str) -> str:
    """The template without the names of its parameters."""
    return "/".join(
        ("{x:path}" if part.endswith(":path}") else "{x}") if part.startswith("{") else part
        for part in template.split("/")
    )


def _fits(template: str, path: str) -> bool:
    """Whether the literal segments of a template, which fits the path but for case, are in the path as they stand."""
    return all(
        wanted.startswith("{") or wanted == given
        for wanted, given in zip(template.split("/"), path.split("/"), strict=False)
    )
