"""The request or message that this context works on: its id, its trace, its claims."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class Request(Protocol):
    """What is known about a request or a message while it is answered."""

    request_id: bytes
    trace_id: str
    unavailable: str  # the store that could not be had in its course; empty while none was missed

    @property
    def claims(self) -> dict[str, Any]:
        """What its credential says, verified; a copy. Empty where there is none."""


# The request that runs in this context, for the records that the application logs in it.
current_request: ContextVar[Request | None] = ContextVar("pywatt_request", default=None)
