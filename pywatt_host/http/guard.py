"""What the edge wants of whoever says who may ask; it is made elsewhere and handed in."""

from __future__ import annotations

from typing import Any, Protocol

from pywatt_host.types import Headers, Scope

_PROTOCOLS = b"sec-websocket-protocol"


class Verdict(Protocol):
    """`status` is 0 where a request may go on, else that of the answer: 401, 403 or 503."""

    @property
    def status(self) -> int: ...
    @property
    def reason(self) -> str:
        """For the log, `auth.SCHEME: why`; it needs no escaping."""

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Of the refusal: challenges."""

    @property
    def subject(self) -> str:
        """Who asks; empty where that is not known."""

    @property
    def claims(self) -> dict[str, Any]:
        """What the credential says, for the application: a copy of its own. Empty where it does not hold."""


class Guard(Protocol):
    """Two endpoints that ask for the same have the same one."""

    @property
    def schemes(self) -> tuple[str, ...]: ...

    def recall(self, scope: Scope) -> Verdict | None:
        """The verdict, or None where it takes waiting."""

    async def examine(self, scope: Scope) -> Verdict: ...


def take_bearer(scope: Scope) -> bool:
    """Of a WebSocket that offers the subprotocols `bearer, TOKEN`, as browsers can: the token becomes its
    Authorization header, and the application sees neither of the two among what is offered. Whether it was so.

    The token is never taken from the query, which ends up in logs and histories.
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
