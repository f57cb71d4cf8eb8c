"""What a transport for messages is: it gives the routes that lead to a module, and publishes events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.payload import Payload

CHANNELS = ("ipc", "tcp", "stdio", "http", "nats")  # by preference: the first that both sides have is used


def trace_headers(payload: Payload) -> dict[str, str]:
    """Header fields with the trace (W3C Trace Context) and the request id of a message, for servers and tools that do
    not read its content."""
    try:
        properties = payload.document()["metadata"]["properties"]
    except (ProtocolError, KeyError, TypeError):
        return {}
    headers = {name: str(properties[name]) for name in ("traceparent", "tracestate") if name in properties}
    if properties.get("request_id"):
        headers["X-Request-ID"] = str(properties["request_id"])
    return headers


class MessageRoute(Protocol):
    """A way to a module over one channel. `keeps` tells whether a queue keeps messages until they have been handled."""

    @property
    def channel(self) -> str: ...

    @property
    def keeps(self) -> bool: ...

    @property
    def ready(self) -> bool:
        """Whether it is connected now."""

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        """Send a message, once there is a connection, and return its answer. Raises MessagingError; with the codes
        `unavailable` and `unknown_target` only where the message has not been sent."""

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        """Return once a queue keeps the message. Raises MessagingError."""

    async def available(self, timeout: float, target: str) -> None:
        """Return when it is connected. Raises MessagingError `unavailable` after `timeout` seconds."""

    async def drained(self) -> None:
        """Return when more can be sent."""


class Transport(Protocol):
    """Something that can carry messages to modules."""

    def routes(self, target: str, channel: str | None) -> Sequence[MessageRoute]:
        """The routes that may lead to a module, over one channel or over any."""

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """Hand over an event. True where a peer or a server took it, False where none was connected, None where there
        is none to tell."""
