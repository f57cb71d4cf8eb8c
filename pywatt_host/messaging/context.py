"""The context of a message that is being handled, and the credential that came with it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pywatt_host.exceptions import MessagingError
from pywatt_host.observability.context import RequestContext, TraceContext


class Vouch(Protocol):
    """Verifies the credentials of messages."""

    def __call__(
        self, authorization: str, *, schemes: Sequence[str] = (), source: str = ""
    ) -> Awaitable[dict[str, Any]]:
        """The claims of the value of an Authorization header, verified by one of the schemes (none: by any). `source`
        is the module that sent it. Raises MessagingError where it is not valid."""


async def verified_claims(
    vouch: Vouch | None, authorization: object, schemes: Sequence[str], source: str
) -> dict[str, Any]:
    """The claims of the credential of a message whose handler takes these schemes (none: any, or no credential).

    Raises MessagingError: `unauthorized` where the handler takes schemes and there is no valid credential of one of
    them, else `handler_failed`.
    """
    if not schemes:
        if authorization is None or vouch is None:
            return {}
        return await vouch(str(authorization), source=source)
    names = " or ".join(schemes)
    if authorization is None or vouch is None:
        raise MessagingError("unauthorized", f"the handler requires a credential of {names}, and there is none")
    try:
        return await vouch(str(authorization), schemes=schemes, source=source)
    except MessagingError as error:
        text = f"the handler requires a credential of {names}: {error.message}"
        raise MessagingError("unauthorized", text) from None


@dataclass(slots=True)
class MessageContext:
    """The RequestContext of a message: its id, its trace, and the claims of its credential once they are verified."""

    request_id: bytes = b""
    trace: TraceContext | None = None
    span_id: str = ""
    unavailable: str = ""
    reason: str = ""
    claims: dict[str, Any] = field(default_factory=dict)


def context_with(context: RequestContext | None, claims: dict[str, Any]) -> MessageContext:
    """The context of a message of this process that has a credential of its own: `context` with these claims."""
    if context is None:
        return MessageContext(claims=claims)
    return MessageContext(context.request_id, context.trace, context.span_id, claims=claims)
