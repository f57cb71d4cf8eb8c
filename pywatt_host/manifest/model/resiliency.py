"""`resiliency`: how long requests and messages to others may take, when they are tried again, and when no longer."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from pywatt_host.manifest.model.app import MODULE_ID
from pywatt_host.manifest.model.auth import SCHEME_NAME
from pywatt_host.manifest.model.base import Section, key
from pywatt_host.manifest.values import DurationOrOff, Int, PositiveDuration

PolicyName: TypeAlias = Annotated[str, Field(pattern=SCHEME_NAME)]


class RetryPolicy(Section):
    """When a call that failed is made again."""

    policy: Literal["constant", "exponential"] = key(
        "exponential",
        "`constant` waits `duration` before each retry; `exponential` anything up to `duration`, then up to twice, four"
        " times, eight times as long (full jitter).",
        "constant",
    )
    duration: PositiveDuration = key(0.1, "The wait before the first retry, at most.", "200ms")
    max_interval: PositiveDuration = key(5.0, "The longest wait that `exponential` grows to.", "10s")
    max_retries: Int = key(3, "Most retries of a call; the first attempt is none.", 5, ge=1, le=100)


class CircuitBreaker(Section):
    """When a target that fails is left alone, and for how long."""

    max_requests: Int = key(
        1, "Calls let through to try the target, once `timeout` is over; when all succeed it closes.", 2, ge=1, le=1000
    )
    interval: DurationOrOff = key(
        10.0, "How long failures in a row are counted together; `off`: until one call succeeds.", "1m"
    )
    timeout: PositiveDuration = key(30.0, "How long it stays open: every call fails at once.", "10s")
    consecutive_failures: Int = key(5, "Failures in a row that open it.", 3, ge=1, le=100_000)


class Policies(Section):
    """Policies by names of your own, for `targets` to name."""

    timeouts: dict[PolicyName, PositiveDuration] = key(
        dict, "How long a call may take, waits and retries included.", {"fast": "2s"}
    )
    retries: dict[PolicyName, RetryPolicy] = key(
        dict, "When a call that failed is made again.", {"gentle": {"max_retries": 3}}
    )
    circuit_breakers: dict[PolicyName, CircuitBreaker] = key(
        dict, "When a target that fails is left alone.", {"careful": {"consecutive_failures": 5}}
    )


class Target(Section):
    """The policies of one target, by their names."""

    timeout: PolicyName | None = key(None, "A name of `policies.timeouts`.", "fast")
    retry: PolicyName | None = key(None, "A name of `policies.retries`.", "gentle")
    circuit_breaker: PolicyName | None = key(
        None, "A name of `policies.circuit_breakers`. Each target has a breaker of its own.", "careful"
    )


class Targets(Section):
    """Which policies count for whom."""

    modules: dict[Annotated[str, Field(pattern=MODULE_ID)], Target] = key(
        dict,
        "By module id or service name: messages to it, and module://NAME/ in app_state.http.",
        {"billing": {"timeout": "fast"}},
    )
    clients: dict[Annotated[str, Field(pattern=SCHEME_NAME)], Target] = key(
        dict,
        "By name in `clients`: requests of app_state.http to its origin.",
        {"payments": {"retry": "gentle"}},
    )


class Resiliency(Section):
    """Policies, and whom they are for."""

    policies: Policies = key(Policies, "Policies by names of your own.", {"timeouts": {"fast": "2s"}})
    targets: Targets = key(Targets, "Which policies count for whom.", {"modules": {"billing": {"timeout": "fast"}}})
