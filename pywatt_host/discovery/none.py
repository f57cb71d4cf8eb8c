"""Discovery for a module without channels: it finds only the services that it has registered itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from pywatt_host.clients.none import no_orchestrator
from pywatt_host.exceptions import MessagingError

if TYPE_CHECKING:
    from pywatt_host.protocol.messages import Provider


class NoDiscovery:
    """Discovery without a registry: a module finds only the services that it has registered itself."""

    def __init__(self, module_id: str) -> None:
        self._module_id = module_id
        self._own: dict[str, Provider] = {}
        self._address = ""

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        messages = import_module("pywatt_host.protocol.messages")
        kind = messages.service_type_of(service_type)
        provider_id = f"{self._module_id}/{kind}/{name}"
        self._own[provider_id] = messages.Provider(
            provider_id, self._module_id, kind, name, version, address, dict(metadata or {}), True
        )
        return provider_id

    async def deregister(self, service: str) -> None:
        found = [key for key, own in self._own.items() if service in (key, own.name)]
        if not found:
            raise MessagingError("unknown_target", "this module has not registered this service", service)
        for key in found:
            del self._own[key]

    async def discover(self, service_type: str) -> list[Provider]:
        kind = import_module("pywatt_host.protocol.messages").service_type_of(service_type)
        found = [own for own in self._own.values() if own.service_type == kind]
        return [replace(own, address=self._address) if own.address == "auto" else own for own in found]

    async def locate(self, name: str) -> list[tuple[str, bool]]:
        if name.lower() != self._module_id.lower() or not self._address:
            no_orchestrator(name)
        return [(self._address.replace("unix:", "http+unix:", 1), True)]

    def announce(self, address: str) -> None:
        self._address = address
