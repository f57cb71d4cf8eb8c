"""A message that has arrived over any transport, and its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

from pywatt_host.messaging.context import MessageContext
from pywatt_host.messaging.handlers import MAX_ERROR_LENGTH
from pywatt_host.observability.context import TraceContext, read_trace
from pywatt_host.protocol.payload import Envelope, Payload, is_envelope
from pywatt_host.protocol.session import cut

# Takes an event: topic, source, payload, channel, and who vouches for the source.
EventHandler: TypeAlias = Callable[[str, str, Payload, str, str], None]


class Incoming(Protocol):
    """A message from another module that can be answered. For `vouched_by` and `attempt` see MessageInfo."""

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
        """Whether a queue keeps the message and delivers it again where it is refused. Such messages are fetched as
        there is room for them."""

    def answer(self, module_id: str, content: Any) -> None:
        """Send the handler's reply, or an error in the form of PROTOCOL.md. Raises HostError where it cannot be
        sent."""


def reply_payload(content: Any) -> Payload:
    """A reply as a payload. It is put into an envelope only where receivers would take it for one."""
    return Payload.of(Envelope(content).seal() if is_envelope(content) else content)


def error_document(code: str, text: str) -> dict[str, str]:
    """An error in the form in which it is answered."""
    return {"type": "error", "code": code, "message": text[:MAX_ERROR_LENGTH]}


def message_context(properties: Any) -> MessageContext:
    """The context that the properties of an envelope describe."""
    request_id = properties.get("request_id")
    return MessageContext(
        cut(request_id, 128).encode() if isinstance(request_id, str) else b"", message_trace(properties)
    )


def message_trace(properties: Any) -> TraceContext | None:
    """The trace that the properties of an envelope name: that of the sender. None where there is none."""
    traceparent, tracestate = properties.get("traceparent"), properties.get("tracestate", "")
    if not isinstance(traceparent, str):
        return None
    return read_trace(traceparent, tracestate if isinstance(tracestate, str) else "")
