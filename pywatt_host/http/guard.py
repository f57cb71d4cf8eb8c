"""The guard of an endpoint, as the edge uses it. `auth/guard.py` implements it."""

from __future__ import annotations

from typing import Any, Protocol

from pywatt_host.types import Headers, Scope

_PROTOCOLS = b"sec-websocket-protocol"


class Verdict(Protocol):
    """Whether a request may go on. `status` is 0 where it may, else that of the response: 401, 403 or 503."""

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str:
        """The reason for the log, as `auth.SCHEME: REASON`; it needs no escaping."""

    @property
    def is_guess(self) -> bool:
        """Whether the request had a credential, and that is not valid."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Headers of the refusal, such as challenges."""

    @property
    def subject(self) -> str:
        """The subject of the credential; empty where it is not known."""

    @property
    def claims(self) -> dict[str, Any]:
        """A copy of the claims of the credential for the application; empty where the credential is not valid."""


class Guard(Protocol):
    """Checks the credentials of requests. Endpoints that need the same credential share one guard."""

    @property
    def schemes(self) -> tuple[str, ...]: ...

    def recall(self, scope: Scope) -> Verdict | None:
        """The verdict, or None where it is only known after waiting."""

    async def examine(self, scope: Scope) -> Verdict:
        """Verify the credential of a request."""


def take_bearer(scope: Scope) -> bool:
    """Take the token of a WebSocket from its subprotocols `bearer, TOKEN`, which is how browsers can send one.

    The token becomes the Authorization header, and the two subprotocols are removed. Returns whether there was a token.
    A token is never taken from the query string, which ends up in logs and browser histories.
    """
    offered = list(scope.get("subprotocols", ()))
    if "bearer" not in offered[:-1]:
        return False
    at = offered.index("bearer")
    token = offered[at + 1]
    left = offered[:at] + offered[at + 2 :]
    headers: Headers = [header for header in scope["headers"] if header[0] != _PROTOCOLS]
    if left:
        headers.append((_PROTOCOLS, ", ".join(left).encode("latin-1", "replace")))
    headers.append((b"authorization", b"Bearer " + token.encode("latin-1", "replace")))
    scope["subprotocols"], scope["headers"] = left, headers
    return True
