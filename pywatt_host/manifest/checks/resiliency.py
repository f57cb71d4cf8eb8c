"""Checks of `resiliency`: whether the policies and clients that it names are declared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.model import Manifest, ResilienceTarget
from pywatt_host.manifest.problems import KeyPath, Severity, near_miss

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

# Key of a target -> the key in `policies` whose names it refers to.
_POLICIES = {"timeout": "timeouts", "retry": "retries", "circuit_breaker": "circuit_breakers"}


class ResiliencyChecks:
    """Reports faults with `add`. `left_out` says which values are unknown."""

    def __init__(self, manifest: Manifest, add: Add, left_out: LeftOut) -> None:
        self._manifest = manifest
        self._add = add
        self._left_out = left_out

    def check(self) -> None:
        self._intervals()
        policies = self._manifest.resiliency.policies
        for path, target in self._targets():
            for key, kind in _POLICIES.items():
                name = getattr(target, key)
                place: KeyPath = ("resiliency", "policies", kind)
                declared = [*getattr(policies, kind), *self._left_out.names(place)]
                if name is not None and name not in declared and not self._left_out.holds(place):
                    where = f"resiliency.policies.{kind}"
                    self._add(
                        (*path, key),
                        "unknown-policy",
                        f'"{name}" is not declared in {where}',
                        _declared_hint(name, declared),
                        "error",
                    )
        clients = [*self._manifest.clients, *self._left_out.names(("clients",))]
        if self._left_out.holds(("clients",)):
            return
        for name in self._manifest.resiliency.targets.clients:
            if name not in clients:
                self._add(
                    ("resiliency", "targets", "clients", name),
                    "unknown-client",
                    f'"{name}" is not declared in clients',
                    _declared_hint(name, clients),
                    "error",
                )

    def _targets(self) -> Iterator[tuple[KeyPath, ResilienceTarget]]:
        targets = self._manifest.resiliency.targets
        for name, target in targets.modules.items():
            yield ("resiliency", "targets", "modules", name), target
        for name, target in targets.clients.items():
            yield ("resiliency", "targets", "clients", name), target

    def _intervals(self) -> None:
        for name, retry in self._manifest.resiliency.policies.retries.items():
            path: KeyPath = ("resiliency", "policies", "retries", name, "max_interval")
            given = "max_interval" in retry.model_fields_set
            if retry.policy == "constant" and given:
                message = "this key does not apply to policy constant, only to exponential"
                self._add(path, "conflict", message, "remove it", "error")
            elif self._left_out.holds(path) or self._left_out.holds((*path[:-1], "duration")):
                continue
            elif retry.policy == "exponential" and retry.duration > retry.max_interval:
                key, relation = ("max_interval", "less") if given else ("duration", "more")
                other = "duration" if given else "max_interval"
                self._add(
                    (*path[:-1], key),
                    "conflict",
                    f"{key} is {relation} than {other}",
                    "the wait grows from duration to max_interval",
                    "error",
                )


def _declared_hint(name: str, declared: Collection[str]) -> str:
    meant = near_miss(name, list(declared))
    return f"declared: {', '.join(declared) or 'none'}" + (f'; did you mean "{meant}"?' if meant else "")
