"""What a proxied store needs from the object that sends its operations to the orchestrator."""

from __future__ import annotations

from typing import Any, Protocol


class Remote(Protocol):
    """Sends the messages `service_request` and `service_operation` of the protocol."""

    async def connect(self, service_type: str, config: Any, timeout: float) -> str:
        """Open a connection and return its id, within `timeout` seconds. Raises MessagingError: `refused`, with the
        orchestrator's message, if the orchestrator refuses it."""

    async def operate(self, connection: str, service_type: str, operation: str, params: Any, timeout: float) -> Any:
        """Run an operation and return its result, within `timeout` seconds. Raises MessagingError: `refused`, with the
        orchestrator's message, if the operation fails."""
