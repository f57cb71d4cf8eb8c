"""What a transport of messages is: it names the routes that lead to a module, and publishes events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pywatt_host.protocol.payload import Payload

CHANNELS = ("ipc", "tcp", "stdio", "http", "nats")  # the first that both sides share is taken


class MessageRoute(Protocol):
    """A way to a module over one channel. `keeps`: what is sent is kept until the other side has handled it."""

    @property
    def channel(self) -> str: ...

    @property
    def keeps(self) -> bool: ...

    @property
    def ready(self) -> bool:
        """Whether it is connected now."""

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        """The answer. Waits for a connection. Raises MessagingError: `unavailable` and `unknown_target` only where
        the message has not been sent."""

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        """Returns once the message is kept. Raises MessagingError."""

    async def available(self, timeout: float, target: str) -> None:
        """Returns when it is connected. Raises MessagingError `unavailable` after so many seconds."""

    async def drained(self) -> None:
        """Returns when more may be sent."""


class Transport(Protocol):
    """Somebody who has ways to modules."""

    def routes(self, target: str, channel: str | None) -> Sequence[MessageRoute]:
        """Those that may lead to it, of one channel or of any."""

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """Hand an event over; whether somebody was there to take it, None where it has nobody to tell."""
