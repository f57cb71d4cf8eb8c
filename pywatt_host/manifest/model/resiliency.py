"""`resiliency`: how long requests and messages to others may take, and when they are retried or stopped."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from pywatt_host.manifest.model.app import MODULE_ID
from pywatt_host.manifest.model.auth import NAME_HINT, SCHEME_NAME, ClientName
from pywatt_host.manifest.model.base import Section, key
from pywatt_host.manifest.values import DurationOrOff, Format, Int, PositiveDuration

PolicyName: TypeAlias = Annotated[str, Field(pattern=SCHEME_NAME), Format("a policy name", NAME_HINT)]
TargetName: TypeAlias = Annotated[
    str,
    Field(pattern=MODULE_ID),
    Format(
        "a module id or service name",
        "use letters, digits, dots, dashes and underscores; start with a letter or a digit; at most 63 characters",
    ),
]


class RetryPolicy(Section):
    """When a failed call is retried."""

    policy: Literal["constant", "exponential"] = key(
        "exponential",
        "How the wait before a retry is chosen. `constant` waits `duration` before each retry. `exponential` waits"
        " a random time: up to `duration` before the first retry, then up to twice, four times, eight times as"
        " long (full jitter).",
        "constant",
    )
    duration: PositiveDuration = key(0.1, "Maximum wait before the first retry.", "200ms")
    max_interval: PositiveDuration = key(5.0, "Maximum wait that `exponential` grows to.", "10s")
    max_retries: Int = key(3, "Maximum number of retries of a call. The first attempt does not count.", 5, ge=1, le=100)


class CircuitBreaker(Section):
    """When calls to a failing target are stopped, and for how long."""

    max_requests: Int = key(
        1,
        "Number of trial calls that are let through once `timeout` is over. If all of them succeed, the breaker"
        " closes.",
        2,
        ge=1,
        le=1000,
    )
    interval: DurationOrOff = key(
        10.0, "How long failures in a row are counted together. `off`: until a call succeeds.", "1m"
    )
    timeout: PositiveDuration = key(
        30.0, "How long the breaker stays open. Until then, every call fails at once.", "10s"
    )
    consecutive_failures: Int = key(5, "Number of failures in a row that open the breaker.", 3, ge=1, le=100_000)


class Policies(Section):
    """Policies under names of your choice, for `targets` to refer to."""

    timeouts: dict[PolicyName, PositiveDuration] = key(
        dict, "How long a call may take, including waits and retries.", {"fast": "2s"}
    )
    retries: dict[PolicyName, RetryPolicy] = key(dict, "When a failed call is retried.", {"gentle": {"max_retries": 3}})
    circuit_breakers: dict[PolicyName, CircuitBreaker] = key(
        dict, "When calls to a failing target are stopped.", {"careful": {"consecutive_failures": 5}}
    )


class Target(Section):
    """The policies of one target, by their names."""

    timeout: PolicyName | None = key(None, "Name of a timeout in `policies.timeouts`.", "fast")
    retry: PolicyName | None = key(None, "Name of a retry policy in `policies.retries`.", "gentle")
    circuit_breaker: PolicyName | None = key(
        None, "Name of a circuit breaker in `policies.circuit_breakers`. Each target has its own breaker.", "careful"
    )


class Targets(Section):
    """Which policies apply to which target."""

    modules: dict[TargetName, Target] = key(
        dict,
        "Policies by module id or service name, for messages to that module and for module://NAME/ in app_state.http.",
        {"billing": {"timeout": "fast"}},
    )
    clients: dict[ClientName, Target] = key(
        dict,
        "Policies by name in `clients`, for requests of app_state.http to that client's origin.",
        {"payments": {"retry": "gentle"}},
    )


class Resiliency(Section):
    """Policies, and the targets that they apply to."""

    policies: Policies = key(
        Policies, "Policies under names of your choice, for `targets` to refer to.", {"timeouts": {"fast": "2s"}}
    )
    targets: Targets = key(
        Targets, "Which policies apply to which target.", {"modules": {"billing": {"timeout": "fast"}}}
    )
