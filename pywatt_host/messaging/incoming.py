"""A message that has arrived, whatever it came over, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pywatt_host.messaging.handlers import LONGEST_TEXT
from pywatt_host.observability.context import TraceContext, parse_traceparent
from pywatt_host.protocol.payload import Envelope, Payload, is_envelope
from pywatt_host.protocol.session import cut


class Incoming(Protocol):
    """A message of another module, and the way back. `vouched_by` and `attempt`: see Delivery."""

    source: str
    payload: Payload

    @property
    def channel(self) -> str: ...

    @property
    def vouched_by(self) -> str: ...

    @property
    def attempt(self) -> int: ...

    @property
    def kept(self) -> bool:
        """Whether it comes again where it is refused: it is asked for as there is room."""

    def answer(self, module_id: str, content: Any) -> None:
        """The handler's reply, or an error as PROTOCOL.md has it. Raises HostError where it cannot be sent."""


def sealed(content: Any) -> Payload:
    """Content as a payload: in an envelope only where it could be taken for one."""
    return Payload.of(Envelope(content).seal() if is_envelope(content) else content)


def error_document(code: str, text: str) -> dict[str, str]:
    """An error as an answer."""
    return {"type": "error", "code": code, "message": text[:LONGEST_TEXT]}


@dataclass(slots=True)
class MessageContext:
    """The RequestContext of a message: its id, its trace, and the claims of its credential once they are verified."""

    request_id: bytes = b""
    trace: TraceContext | None = None
    unavailable: str = ""
    claims: dict[str, Any] = field(default_factory=dict)


def message_context(properties: Any) -> MessageContext:
    """The context that the properties of an envelope describe."""
    request_id, traceparent = properties.get("request_id"), properties.get("traceparent")
    return MessageContext(
        cut(request_id, 128).encode() if isinstance(request_id, str) else b"",
        parse_traceparent(traceparent) if isinstance(traceparent, str) else None,
    )
