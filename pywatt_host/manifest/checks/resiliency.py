"""Checks of `resiliency`: whether the policies and clients that it names are declared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from pywatt_host.manifest.model import Manifest, ResilienceTarget
from pywatt_host.manifest.problems import KeyPath, Severity, near_miss

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

# Key of a target -> the key in `policies` whose names it refers to.
_POLICIES = {"timeout": "timeouts", "retry": "retries", "circuit_breaker": "circuit_breakers"}


class ResiliencyChecks:
    """Reports faults with `add`. `unset` says whether a value was left out because a variable is not set."""

    def __init__(self, manifest: Manifest, add: Add, unset: Callable[[KeyPath], bool]) -> None:
        self._manifest = manifest
        self._add = add
        self._unset = unset

    def check(self) -> None:
        self._intervals()
        policies = self._manifest.resiliency.policies
        for path, target in self._targets():
            for key, kind in _POLICIES.items():
                name, declared = getattr(target, key), getattr(policies, kind)
                if name is not None and name not in declared and not self._unset((*path, key)):
                    where = f"resiliency.policies.{kind}"
                    self._add(
                        (*path, key),
                        "unknown-policy",
                        f'"{name}" is not declared in {where}',
                        _declared_hint(name, declared),
                        "error",
                    )
        clients = self._manifest.clients
        for name in self._manifest.resiliency.targets.clients:
            if name not in clients:
                place: KeyPath = ("resiliency", "targets", "clients", name)
                self._add(
                    place,
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
