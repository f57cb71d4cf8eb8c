"""A message that has arrived, whatever it came over, and its answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pywatt_host.messaging.handlers import LONGEST_TEXT
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
class MessageTrace:
    """What the log records of a handler carry."""

    request_id: bytes = b""
    trace_id: str = ""
    unavailable: str = ""
    claims: dict[str, Any] = field(default_factory=dict)


def trace_of(properties: Any) -> MessageTrace:
    """Request id and trace of the properties of an envelope."""
    request_id, parent = properties.get("request_id"), properties.get("traceparent")
    parts = parent.split("-") if isinstance(parent, str) else []
    return MessageTrace(
        cut(request_id, 128).encode() if isinstance(request_id, str) else b"",
        parts[1] if len(parts) == 4 and len(parts[1]) == 32 and parts[1].isalnum() else "",
    )
