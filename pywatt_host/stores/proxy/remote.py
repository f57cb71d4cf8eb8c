"""What a proxied store needs of whoever carries its operations to the orchestrator."""

from __future__ import annotations

from typing import Any, Protocol


class Remote(Protocol):
    """`service_request` and `service_operation` of the wire."""

    async def connect(self, service_type: str, config: Any, timeout: float) -> str:
        """The id of a connection. Raises MessagingError: `refused` with the orchestrator's words."""

    async def operate(self, connection: str, service_type: str, operation: str, params: Any, timeout: float) -> Any:
        """The result. Raises MessagingError: `refused` with the orchestrator's words."""
