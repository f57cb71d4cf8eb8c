"""Decides whether a request may reach an endpoint: it needs a credential of one of the schemes, then scopes and
claims."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from pywatt_host.auth.identity import VOUCHED, DeniedError, Identity, Reason, UnavailableError
from pywatt_host.auth.scheme import Scheme
from pywatt_host.net.limits import client_key
from pywatt_host.types import Scope

_OF_VOUCHED = f"{VOUCHED}."
Counts: TypeAlias = Counter[tuple[str, str]]  # (scheme, reason) -> refused requests


class Refused:
    """The verdict on a request that is refused. `reason` is for the log: `auth.SCHEME: reason`."""

    __slots__ = ("headers", "is_guess", "reason", "status", "subject")

    @property
    def claims(self) -> dict[str, Any]:
        """Always empty."""
        return {}

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Sequence[tuple[bytes, bytes]] = (),
        subject: str = "",
        *,
        is_guess: bool = False,
    ) -> None:
        """`subject` is set if the credential is valid but does not allow the request. `is_guess` tells that there was
        a credential, and that it is not valid."""
        self.subject = subject
        self.is_guess = is_guess
        self.status = status
        self.reason = reason
        self.headers = tuple(headers)


Verdict: TypeAlias = Identity | Refused


class Guard:
    """Checks the requests of all endpoints that have the same requirement.

    It is immutable. There is one guard for each different requirement of a manifest, so that `is` tells whether two
    endpoints have the same.
    """

    def __init__(
        self,
        schemes: Sequence[Scheme],
        scopes: Iterable[str],
        claims: Mapping[str, Sequence[Any]],
        realms: Mapping[str, str],
        counts: Counts,
    ) -> None:
        """`realms` holds the realm of each scheme's challenge, by the scheme's name."""
        self._schemes = tuple(schemes)
        self._only = schemes[0] if len(schemes) == 1 else None
        self._scopes = frozenset(scopes)
        self._claims = {name: tuple(values) for name, values in claims.items()}
        self._realms = realms
        self._counts = counts
        self._free = not self._scopes and not self._claims
        self._missing = Refused(401, f"auth.{schemes[0].name}: missing", self._challenges(schemes))

    @property
    def schemes(self) -> tuple[str, ...]:
        """The names of the guard's schemes."""
        return tuple(scheme.name for scheme in self._schemes)

    def recall(self, scope: Scope) -> Verdict | None:
        """Return the verdict if it needs no verification, or None if `examine` must be called. Never waits."""
        if self._only is None:
            return self._recall_one_of(scope)
        scheme = self._only
        try:
            credential = scheme.presented(scope)
        except DeniedError as error:
            return self._denied((scheme,), scheme, error.reason)
        if credential is None:
            self._counts[scheme.name, "missing"] += 1
            return self._missing
        identity = scheme.recall(credential)
        if identity is None or self._free:
            return identity
        return self._authorized(scheme, identity)

    def _recall_one_of(self, scope: Scope) -> Verdict | None:
        found = self._candidates(scope)
        if isinstance(found, Refused):
            return found
        credential, candidates = found
        for scheme in candidates:
            identity = scheme.recall(credential)
            if identity is not None:
                return self._authorized(scheme, identity)
        return None

    async def examine(self, scope: Scope) -> Verdict:
        """Return the verdict, and verify the credential if necessary. Raises nothing."""
        found = self._candidates(scope)
        if isinstance(found, Refused):
            return found
        credential, candidates = found
        client = scope.get("client")
        address = client_key(client[0]) if client is not None else ""
        denied: tuple[Scheme, Reason] | None = None
        unavailable: tuple[Scheme, UnavailableError] | None = None
        for scheme in candidates:
            try:
                return self._authorized(scheme, await scheme.verify(credential, address))
            except DeniedError as error:
                denied = denied or (scheme, error.reason)
            except UnavailableError as error:
                unavailable = unavailable or (scheme, error)
        if unavailable is not None:
            scheme, cause = unavailable
            self._counts[scheme.name, cause.reason] += 1
            wait = str(max(1, round(cause.wait))).encode()
            return Refused(503, f"auth.{scheme.name}: {cause.reason}", [(b"retry-after", wait)])
        assert denied is not None
        return self._denied(candidates, *denied)

    def _candidates(self, scope: Scope) -> tuple[bytes, tuple[Scheme, ...]] | Refused:
        """Return the first credential of the request, in the order of the schemes, and the schemes it may belong to."""
        for scheme in self._schemes:
            try:
                credential = scheme.presented(scope)
            except DeniedError as error:
                return self._denied((scheme,), scheme, error.reason)
            if credential is None:
                continue
            same = tuple(each for each in self._schemes if each.carrier == scheme.carrier)
            if len(same) > 1:
                same = tuple(each for each in same if each.accepts(credential)) or same
            return credential, same
        self._counts[self._schemes[0].name, "missing"] += 1
        return self._missing

    def _authorized(self, scheme: Scheme, identity: Identity) -> Verdict:
        if not self._scopes <= identity.scopes:
            self._counts[scheme.name, "scope"] += 1
            wanted = " ".join(sorted(self._scopes))
            return self._forbidden(scheme, identity, "scope", wanted)
        if self._claims:
            claims = identity.claims
            if not all(_holds(claims, name, values) for name, values in self._claims.items()):
                self._counts[scheme.name, "claim"] += 1
                return self._forbidden(scheme, identity, "claim", "")
        return identity

    def _forbidden(self, scheme: Scheme, identity: Identity, reason: Reason, scope: str) -> Refused:
        realm = self._realms[scheme.name]
        headers = []
        if scheme.carrier == "bearer":
            headers.append((b"www-authenticate", scheme.challenge(realm, "insufficient_scope", scope)))
        return Refused(403, f"auth.{scheme.name}: {reason}", headers, identity.subject)

    def _denied(self, candidates: Sequence[Scheme], scheme: Scheme, reason: Reason) -> Refused:
        self._counts[scheme.name, reason] += 1
        if reason == "subject":  # the credential is valid: another one would not be, so that a challenge is no help
            return Refused(403, f"auth.{scheme.name}: {reason}")
        others = [each for each in self._schemes if each.carrier != scheme.carrier]
        headers = [*self._challenges((scheme,), "invalid_token"), *self._challenges(others)]
        return Refused(401, f"auth.{scheme.name}: {reason}", headers, is_guess=True)

    def _challenges(self, schemes: Iterable[Scheme], error: str = "") -> list[tuple[bytes, bytes]]:
        """Return one challenge for each carrier (RFC 9110 section 11.6.1)."""
        values: dict[bytes, None] = {}
        seen: set[str] = set()
        for scheme in schemes:
            if scheme.carrier not in seen:
                values[scheme.challenge(self._realms[scheme.name], error)] = None
                seen.add(scheme.carrier)
        return [(b"www-authenticate", value) for value in values]


def _holds(claims: Mapping[str, Any], name: str, wanted: Sequence[Any]) -> bool:
    """Whether a claim has one of the wanted values. For a list, one of its entries must."""
    if name.startswith(_OF_VOUCHED):  # the host's own claim, and not one that a token has at the same path
        found = claims[VOUCHED].get(name.removeprefix(_OF_VOUCHED))
    else:
        found = claims[name] if name in claims else _nested(claims, name)
    values = found if isinstance(found, list) else [found]
    return any(_same(value, each) for value in values for each in wanted)


def _nested(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim at a path of names separated by dots, or None if there is none."""
    here: Any = claims
    for part in path.split("."):
        if not isinstance(here, dict) or part not in here:
            return None
        here = here[part]
    return here


def _same(value: Any, wanted: Any) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, str) or isinstance(wanted, str):
        return isinstance(value, str) and value == wanted
    return isinstance(value, int | float) and bool(value == wanted)
