"""What a verified credential says, and why one was refused."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

# Why a credential is refused: for the log and for metrics, never for the client. Bounded, so that metrics are.
Reason: TypeAlias = Literal[
    "missing",  # none of the endpoint's schemes was presented
    "malformed",  # no token of this kind, or presented twice
    "too_large",
    "algorithm",  # not one that the scheme allows
    "type",  # `typ` of another kind of token
    "critical",  # `crit` or `b64`, which nothing here understands
    "key",  # no key that fits
    "signature",
    "claim_missing",  # one of required_claims
    "claim_type",  # a registered claim of another type than RFC 7519 has it
    "expired",
    "not_yet_valid",  # nbf or iat in the future
    "issuer",
    "audience",
    "credentials",  # no such key, user or password
    "scope",  # verified, and without a scope that the endpoint asks for: 403
    "claim",  # verified, and without a claim that the endpoint asks for: 403
    "unavailable",  # the keys cannot be had at the moment: 503
    "busy",  # too many verifications at once: 503
]


class Identity:
    """Who a verified credential stands for. Shared by all requests that carry it, so that nothing in it changes.

    `until` is when it must be verified anew, in seconds since the epoch; `scopes` are those of `scope` and `scp`.
    """

    __slots__ = ("_claims", "_flat", "scheme", "scopes", "subject", "until")

    status = 0  # of a verdict: it may go on
    reason = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, scheme: str, subject: str, claims: Mapping[str, Any], until: float) -> None:
        self.scheme = scheme
        self.subject = subject
        self.until = until
        self.scopes = scopes_of(claims)
        self._flat = not any(isinstance(value, dict | list) for value in claims.values())
        self._claims: Any = dict(claims) if self._flat else marshal.dumps(dict(claims))

    @property
    def claims(self) -> dict[str, Any]:
        """The claims, a copy of its own each time: who gets it may change it."""
        claims: dict[str, Any] = self._claims.copy() if self._flat else marshal.loads(self._claims)
        return claims


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """What `scope` (RFC 8693 section 4.2) and `scp` grant: words in a text, or a list of texts."""
    found: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split(" "))
        elif isinstance(value, list):
            found.update(each for each in value if isinstance(each, str))
    found.discard("")
    return frozenset(found)


class DeniedError(Exception):
    """A credential that does not hold. Caught by the guard; nothing of it but `reason` gets out."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


class UnavailableError(Exception):
    """Whether a credential holds cannot be told at the moment: `reason` is `unavailable` or `busy`."""

    def __init__(self, reason: Reason, wait: float = 1.0) -> None:
        self.reason: Reason = reason
        self.wait = wait  # seconds after which asking again makes sense
        super().__init__(reason)
