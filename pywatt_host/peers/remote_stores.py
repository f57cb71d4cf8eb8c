"""Stores of the orchestrator, from the module's side: operations by `service_request` and `service_operation`."""

from __future__ import annotations

import uuid
from typing import Any

from pywatt_host.exceptions import MessagingError
from pywatt_host.peers.client import PeerClient
from pywatt_host.protocol.messages import ServiceOperation, ServiceOperationResult, ServiceRequest, ServiceResponse

_SAID = 1000  # characters of what the orchestrator says


class Proxying:
    """What proxied stores are given, see `stores.remote`."""

    def __init__(self, uplink: PeerClient) -> None:
        self._uplink = uplink

    async def connect(self, service_type: str, config: Any, timeout: float) -> str:
        request = ServiceRequest(str(uuid.uuid4()), service_type, config)
        answer: ServiceResponse = await self._uplink.request(request, timeout)
        if not answer.success or answer.connection_id is None:
            raise MessagingError("refused", (answer.error or "the orchestrator did not say why")[:_SAID])
        return answer.connection_id

    async def operate(self, connection: str, service_type: str, operation: str, params: Any, timeout: float) -> Any:
        request = ServiceOperation(connection, service_type, operation, params)
        answer: ServiceOperationResult = await self._uplink.request(request, timeout)
        if not answer.success:
            raise MessagingError("refused", (answer.error or "the orchestrator did not say why")[:_SAID])
        return answer.result
