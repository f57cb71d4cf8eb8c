"""Stores of the orchestrator, from the module's side: operations by `service_request` and `service_operation`."""

from __future__ import annotations

import uuid
from typing import Any

from pywatt_host.exceptions import MessagingError
from pywatt_host.peers.client import PeerClient
from pywatt_host.protocol.messages import ServiceOperation, ServiceOperationResult, ServiceRequest, ServiceResponse

_MAX_ERROR_LENGTH = 1000  # characters of the orchestrator's error


class Proxying:
    """What proxied stores use to reach the orchestrator's stores, see `stores.proxy.remote`."""

    def __init__(self, client: PeerClient) -> None:
        self._client = client

    async def connect(self, service_type: str, config: Any, timeout: float) -> str:
        """Open a connection and return its id. `timeout` is in seconds. Raises MessagingError."""
        request = ServiceRequest(str(uuid.uuid4()), service_type, config)
        answer: ServiceResponse = await self._client.request(request, timeout)
        if not answer.success or answer.connection_id is None:
            raise _refused(answer)
        return answer.connection_id

    async def operate(self, connection: str, service_type: str, operation: str, params: Any, timeout: float) -> Any:
        """Run one operation and return its result. `timeout` is in seconds. Raises MessagingError."""
        request = ServiceOperation(connection, service_type, operation, params)
        answer: ServiceOperationResult = await self._client.request(request, timeout)
        if not answer.success:
            raise _refused(answer)
        return answer.result


def _refused(answer: ServiceResponse | ServiceOperationResult) -> MessagingError:
    return MessagingError("refused", (answer.error or "the orchestrator did not say why")[:_MAX_ERROR_LENGTH])
