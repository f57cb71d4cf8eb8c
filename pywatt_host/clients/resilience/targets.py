"""The policies of `resiliency` by target, with their metrics and health checks."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping

from pywatt_host.clients.resilience.breaker import Breaker
from pywatt_host.clients.resilience.policy import TargetPolicy
from pywatt_host.clients.resilience.retry import RetrySchedule
from pywatt_host.manifest.model import Manifest, ResilienceTarget
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family


class Resilience:
    """A TargetPolicy for each declared target. That of a module holds for messages and for module:// requests together:
    a module that fails in one of the two ways is left alone in both."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`clock` gives seconds, `draw` numbers from 0 to 1."""
        self._manifest = manifest
        self._clock = clock
        self._draw = draw
        targets = manifest.resiliency.targets
        self._modules = {name: self._policy("modules", name, target) for name, target in targets.modules.items()}
        self._clients = {name: self._policy("clients", name, target) for name, target in targets.clients.items()}
        self._lowered = {name.lower(): policy for name, policy in self._modules.items()}
        self._none = TargetPolicy("", "")

    def _policy(self, kind: str, name: str, target: ResilienceTarget) -> TargetPolicy:
        policies = self._manifest.resiliency.policies
        breaker = policies.circuit_breakers[target.circuit_breaker] if target.circuit_breaker is not None else None
        retry = policies.retries[target.retry] if target.retry is not None else None
        return TargetPolicy(
            name,
            f"resiliency.targets.{kind}.{name}",
            policies.timeouts[target.timeout] if target.timeout is not None else None,
            RetrySchedule(retry, self._draw) if retry is not None else None,
            Breaker(breaker, self._clock) if breaker is not None else None,
            self._clock,
        )

    def for_module(self, name: str) -> TargetPolicy:
        """The policy of a module id or a service name; without a declared one, a policy without limits. Names in URLs
        are in lower case, so that a name in lower case finds a policy in any case."""
        return self._modules.get(name) or self._lowered.get(name) or self._none

    def for_messages(self, name: str) -> TargetPolicy | None:
        """The policy for messages to a module id; None where none is declared."""
        return self._modules.get(name)

    @property
    def for_url(self) -> Callable[[str], TargetPolicy] | None:
        """`for_module`, for the transports of module:// URLs."""
        return self.for_module

    def for_client(self, name: str) -> TargetPolicy:
        """The policy of an entry of `clients`."""
        return self._clients.get(name) or self._none

    def clients(self) -> Mapping[str, TargetPolicy]:
        """The policies of clients, by their base URLs."""
        declared = self._manifest.clients
        return {declared[name].base_url: policy for name, policy in self._clients.items()}

    def _labelled(self) -> Iterator[tuple[str, TargetPolicy]]:
        """The policies by their labels in metrics and checks. A client with the name of a module is `clients.NAME`."""
        yield from self._modules.items()
        for name, policy in self._clients.items():
            yield (f"clients.{name}" if name in self._modules else name), policy

    def add_checks(self, checks: Checks) -> None:
        """`breaker:TARGET` for each circuit breaker: while it is open the module is degraded, and stays ready."""
        for label, policy in self._labelled():
            if policy.breaker is not None:
                checks.add(f"breaker:{label}", policy.check, optional=True)

    def families(self) -> Iterator[Family]:
        retries: dict[tuple[str, ...], float] = {}
        states: dict[tuple[str, ...], float] = {}
        rejected: dict[tuple[str, ...], float] = {}
        for label, policy in self._labelled():
            if policy.schedule is not None:
                retries[label,] = float(policy.retries)
            if policy.breaker is not None:
                states[label,] = float(policy.breaker.state())
                rejected[label,] = float(policy.breaker.rejected)
        if retries:
            yield Family("counter", "pywatt_retries", "Calls to others made again, by target.", ("target",), retries)
        if states:
            doc = "Circuit breakers by target: 0 closed, 1 half-open, 2 open."
            yield Family("gauge", "pywatt_circuit_breaker_state", doc, ("target",), states, mode="max")
            doc = "Attempts that a circuit breaker did not let through, by target."
            yield Family("counter", "pywatt_circuit_breaker_rejected", doc, ("target",), rejected)
