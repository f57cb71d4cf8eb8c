"""The supervisor's channels to other modules, as its workers use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pywatt_host.build.none import NoChannels
from pywatt_host.exceptions import MessagingError
from pywatt_host.protocol.messages import Discover, Discovered, Provider
from pywatt_host.protocol.payload import Payload

if TYPE_CHECKING:
    from pywatt_host.build.channels import HostChannels

_TIMEOUT = 10.0  # seconds for the orchestrator to answer
_NO_CHANNEL = "there is no channel to it: run the module under an orchestrator, or see channels and services.static"


class Outside:
    """Passes on what workers send over the channels of the supervisor, unchanged."""

    def __init__(self, channels: HostChannels | NoChannels) -> None:
        self._channels = None if isinstance(channels, NoChannels) else channels

    async def pass_on(self, target: str, payload: Payload, timeout: float, channel: str | None) -> Payload:
        """Send a message and return its answer. Raises MessagingError."""
        if self._channels is None:
            raise MessagingError("unavailable", _NO_CHANNEL, target)
        return await self._channels.messages.pass_on(target, payload, timeout, channel)

    async def pass_event(self, topic: str, payload: Payload, channel: str | None) -> None:
        """Publish an event to other modules."""
        if self._channels is not None:
            await self._channels.messages.pass_event(topic, payload, channel)

    def subscribe(self, topic: str) -> None:
        """Subscribe to a topic on every channel, for as long as the host runs."""
        if self._channels is not None and topic not in self._channels.topics.all:
            self._channels.topics.on(topic, _for_workers)

    # The orchestrator -----------------------------------------------------------------------------------------------

    async def discover(self, service_type: str) -> list[Provider]:
        """The providers that the orchestrator knows. Raises MessagingError."""
        if self._channels is None or not self._channels.orchestrator.configured:
            raise MessagingError("unavailable", "there is no orchestrator", service_type)
        answer: Discovered = await self._channels.orchestrator.request(Discover(service_type, True), _TIMEOUT)
        if not answer.success:
            raise MessagingError("refused", answer.error or "the orchestrator did not say why", service_type)
        return list(answer.providers)

    async def connect_store(self, service_type: str, config: Any, timeout: float) -> str:
        """Open a connection to a store of the orchestrator and return its id. Raises MessagingError."""
        if self._channels is None:
            raise MessagingError("unavailable", "this host has no orchestrator: run it under one", service_type)
        return await self._channels.stores.connect(service_type, config, timeout)

    async def operate_store(
        self, connection: str, service_type: str, operation: str, params: Any, timeout: float
    ) -> Any:
        """Run one operation on a store of the orchestrator. Raises MessagingError."""
        if self._channels is None:
            raise MessagingError("unavailable", "this host has no orchestrator: run it under one", service_type)
        return await self._channels.stores.operate(connection, service_type, operation, params, timeout)


async def _for_workers(event: object) -> None:
    """The handler of the supervisor itself: events go to the workers before any handler is called."""
