"""The services that workers register: each is registered once for the host, as long as any worker wants it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pywatt_host.exceptions import HostError
from pywatt_host.protocol.messages import Deregister, Provider, Register, Registered
from pywatt_host.workers.worker_process import WorkerProcess

logger = logging.getLogger("pywatt.workers")

_LINGER = 10.0  # seconds that a service stays registered after the last worker that wanted it has ended


class Discovery(Protocol):
    """The discovery of the supervisor's own channels."""

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str: ...

    async def deregister(self, service: str) -> None: ...


@dataclass(slots=True, eq=False)
class _Service:
    """A registered service. `known_as` are the ids that workers were given for it, and its name."""

    wanted: Register
    id: str
    holders: set[WorkerProcess] = field(default_factory=set)
    known_as: set[str] = field(default_factory=set)


class Registrations:
    """Registers with the supervisor's discovery, and knows what this module has registered."""

    def __init__(self, module_id: str, discovery: Discovery) -> None:
        self._module_id = module_id
        self._discovery = discovery
        self._services: dict[tuple[str, str], _Service] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()

    async def register(self, message: Register, worker: WorkerProcess) -> Registered:
        """Register a service for a worker, where no other worker has registered the same before."""
        key = (message.service_type, message.name)
        async with self._one_at_a_time:
            service = self._services.get(key)
            if service is not None and service.wanted == _plain(message):
                service.holders.add(worker)
                return Registered(True, service.id, None, message.request_id)
            wanted = _plain(message)
            metadata = None if wanted.metadata is None else dict(wanted.metadata)
            try:
                provider_id = await self._discovery.register(
                    wanted.name, wanted.service_type, wanted.address, wanted.version, metadata
                )
            except HostError as error:
                return Registered(False, None, getattr(error, "message", str(error)), message.request_id)
            new = self._services[key] = _Service(wanted, provider_id, {worker}, {provider_id, wanted.name})
            if service is not None:
                new.holders |= service.holders
                new.known_as |= service.known_as
            if worker.ended.done():  # while it was registered
                self.gone(worker)
            return Registered(True, provider_id, None, message.request_id)

    def deregister(self, message: Deregister, worker: WorkerProcess) -> None:
        """A worker no longer offers a service."""
        for key, service in self._services.items():
            if message.provider_id in service.known_as:
                service.holders.discard(worker)
                self._forget_unused(key)
                return

    def gone(self, worker: WorkerProcess) -> None:
        """A worker has ended. Its successor registers the same services again, so they stay for a while."""
        for key, service in self._services.items():
            if worker in service.holders:
                service.holders.discard(worker)
                if not service.holders:
                    asyncio.get_running_loop().call_later(_LINGER, self._forget_unused, key)

    def _forget_unused(self, key: tuple[str, str]) -> None:
        service = self._services.get(key)
        if service is None or service.holders:
            return
        del self._services[key]
        task = asyncio.get_running_loop().create_task(self._deregister(service))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deregister(self, service: _Service) -> None:
        try:
            await self._discovery.deregister(service.id or service.wanted.name)
        except HostError as error:
            logger.warning("service %s could not be deregistered: %s", service.wanted.name, error)

    def providers(self, service_type: str, *, healthy: bool) -> list[Provider]:
        """What this module offers of a type."""
        return [
            Provider(
                service.id, self._module_id, service.wanted.service_type, service.wanted.name, service.wanted.version,
                service.wanted.address, dict(service.wanted.metadata or {}), healthy,
            )
            for (kind, _), service in self._services.items()
            if kind == service_type
        ]  # fmt: skip

    def close(self) -> None:
        """Forget everything; the channels deregister what they have registered."""
        for task in tuple(self._tasks):
            task.cancel()
        self._services.clear()


def _plain(message: Register) -> Register:
    """The message without the id of its request."""
    return Register(message.service_type, message.name, message.address, message.version, message.metadata)
