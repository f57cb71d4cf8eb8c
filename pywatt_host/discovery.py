"""Services by type: offering one to the orchestrator, and finding those of others."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from pywatt_host.conversation import Conversation
from pywatt_host.exceptions import HostError, MessagingError
from pywatt_host.protocol.messages import Discover, Discovered, Provider, Register, Registered, service_type_of
from pywatt_host.uplink import Uplink

logger = logging.getLogger("pywatt.discovery")

TIMEOUT = 10.0  # seconds for the orchestrator to answer


class Discovery:
    """What this module offers is registered anew on each new connection."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._registered: dict[tuple[str, str], Register] = {}
        uplink.on_connected(self._register_again)

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        """The provider's id. Raises MessagingError, `refused` with the orchestrator's own words."""
        wanted = Register(service_type_of(service_type), name, address, version, metadata)
        answer: Registered = await self._uplink.request(wanted, TIMEOUT)
        if not answer.success:
            raise MessagingError("refused", (answer.error or "the orchestrator did not say why")[:300], name)
        self._registered[service_type_of(service_type), name] = wanted
        return answer.provider_id or ""

    async def discover(self, service_type: str) -> list[Provider]:
        """Every provider of a type, healthy or not. Raises MessagingError."""
        answer: Discovered = await self._uplink.request(Discover(service_type_of(service_type), True), TIMEOUT)
        if not answer.success:
            raise MessagingError("refused", (answer.error or "the orchestrator did not say why")[:300], service_type)
        return list(answer.providers)

    async def _register_again(self, conversation: Conversation) -> None:
        for wanted in tuple(self._registered.values()):
            try:
                answer = await conversation.session.request(wanted, TIMEOUT)
                if not answer.success:
                    raise MessagingError("refused", (answer.error or "")[:300], wanted.name)
            except HostError as error:
                logger.warning("%s could not be registered again: %s", wanted.name, error)
