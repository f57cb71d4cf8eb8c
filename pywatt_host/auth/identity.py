"""The identity that a verified credential stands for, and the reasons for which a credential is refused."""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

VOUCHED = "pywatt.auth"  # the claim that says which scheme verified a credential
# The reason for the log and for metrics; the client does not get it. The list is finite, so that metrics are bounded.
Reason: TypeAlias = Literal[
    "missing",  # the request has no credential for any scheme of the endpoint
    "malformed",  # not a token of this kind, or two credentials
    "too_large",
    "algorithm",  # not one that the scheme allows
    "type",  # `typ` of another kind of token
    "critical",  # `crit` or `b64`, which are not supported
    "key",  # no key that fits
    "signature",
    "claim_missing",  # one of required_claims
    "claim_type",  # a registered claim does not have the type that RFC 7519 requires
    "expired",
    "not_yet_valid",  # nbf or iat in the future
    "issuer",
    "audience",
    "credentials",  # no such key, user or password
    "untrusted",  # the server that took the connection could not verify the client's certificate
    "subject",  # a verified certificate that has none of the names that the scheme allows: 403
    "scope",  # verified, but without a scope that the endpoint requires: 403
    "claim",  # verified, but without a claim that the endpoint requires: 403
    "unavailable",  # the keys could not be fetched: 503
    "busy",  # too many verifications at once: 503
]


class Identity:
    """The identity that a verified credential stands for. All requests with the credential share it; it never changes.

    `scheme` is the name of the scheme that verified it, and `kind` the type of that scheme, such as `jwt`. `until` is
    when the credential must be verified again, in seconds since the epoch. `scopes` are those in the claims `scope` and
    `scp`.
    """

    __slots__ = ("_claims", "_flat", "kind", "scheme", "scopes", "subject", "until")

    status = 0  # as a verdict: the request is allowed
    reason = ""
    is_guess = False
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def __init__(self, scheme: str, kind: str, subject: str, claims: Mapping[str, Any], until: float) -> None:
        self.scheme = scheme
        self.kind = kind
        self.subject = subject
        self.until = until
        self.scopes = scopes_of(claims)
        self._flat = not any(isinstance(value, dict | list) for value in claims.values())
        self._claims: Any = dict(claims) if self._flat else marshal.dumps(dict(claims))

    @property
    def claims(self) -> dict[str, Any]:
        """A new copy of the claims, which the caller may change. The claim `pywatt.auth` is the host's: the scheme that
        verified the credential, in place of anything that the credential says under this name."""
        claims: dict[str, Any] = self._claims.copy() if self._flat else marshal.loads(self._claims)
        claims[VOUCHED] = {"scheme": self.scheme, "type": self.kind}
        return claims

    def until_at_most(self, until: float) -> Identity:
        """The same identity, to be verified again at `until` at the latest, in seconds since the epoch."""
        claims = self.claims
        del claims[VOUCHED]
        return Identity(self.scheme, self.kind, self.subject, claims, min(self.until, until))


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in the claims `scope` (RFC 8693 section 4.2) and `scp`: words in a text, or a list of texts."""
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
    """Raised for a credential that is not valid. The guard catches it, and reports nothing but `reason`."""

    def __init__(self, reason: Reason) -> None:
        self.reason: Reason = reason
        super().__init__(reason)


class UnavailableError(Exception):
    """Raised if a credential cannot be verified at the moment. `reason` is `unavailable` or `busy`."""

    def __init__(self, reason: Reason, wait: float = 1.0) -> None:
        self.reason: Reason = reason
        self.wait = wait  # seconds after which the client should retry
        super().__init__(reason)
