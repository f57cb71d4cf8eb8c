"""Services by type: registering those of this module, and finding those of others through the manifest, an orchestrator
or NATS."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import urlsplit

from pywatt_host.discovery.static import StaticProvider, http_address, own_address
from pywatt_host.exceptions import HostError, MessagingError
from pywatt_host.manifest.model import RegisteredService, StaticService
from pywatt_host.manifest.model.services import AUTO, MODULE
from pywatt_host.peers.client import PeerClient
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.names import is_taken, of_that_name, without_impostors
from pywatt_host.protocol.messages import (
    Deregister,
    Discover,
    Discovered,
    Provider,
    Register,
    Registered,
    service_type_of,
)

logger = logging.getLogger("pywatt.discovery")

TIMEOUT = 10.0  # seconds for the orchestrator to answer
# A prefix of service types that the local orchestrator knows: the services of this module, or of this name.
NAME_PREFIX = "module:"
_CACHE_TTL = 2.0  # seconds
_MAX_CACHED = 1000  # names
_ALL_INTERFACES = ("0.0.0.0", "::", "")


class RemoteRegistry(Protocol):
    """A registry for modules on many machines, such as NatsRegistry (see its methods)."""

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str]
    ) -> str: ...

    async def deregister(self, provider_id: str) -> bool: ...

    async def discover(self, service_type: str) -> list[Provider]: ...

    async def find(self, wanted: str) -> list[Provider]: ...


@dataclass(slots=True)
class _OwnService:
    """A service of this module, and the ids under which it is registered."""

    wanted: Register
    auto: bool
    ids: dict[str, str] = field(default_factory=dict)  # by registry: "orchestrator", "nats", "own"

    @property
    def id(self) -> str:
        return self.ids.get("orchestrator") or self.ids.get("nats") or self.ids.get("own", "")


class Discovery:
    """Registers the services of this module, again on each new connection, and finds those of other modules."""

    name = "discovery"

    def __init__(
        self,
        module_id: str,
        orchestrator: PeerClient,
        registry: RemoteRegistry | None = None,
        static: Sequence[StaticService] = (),
        *,
        offers: Sequence[RegisteredService] = (),
        advertise: str | None = None,
        towards: Callable[[], Sequence[tuple[str, int]]] = tuple,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`offers` are the services that are registered once the module listens. `advertise` is the host in addresses
        that are `auto`; without it, the host is the address of this machine on the way to one of `towards`. `healthy`
        tells whether this module is healthy."""
        self._module_id = module_id
        self._orchestrator = orchestrator
        self._registry = registry
        self._static = [StaticProvider(service) for service in static]
        self._modules = frozenset(each.name for each in static if service_type_of(each.type) == MODULE)
        self._offers = offers
        self._advertise = advertise
        self._towards = towards
        self._healthy = healthy
        self._address = ""
        self._own: dict[tuple[str, str], _OwnService] = {}
        self._cache: dict[str, tuple[float, list[Provider]]] = {}
        self._background: set[asyncio.Task[None]] = set()
        orchestrator.on_connected(self._register_again)

    # Registering ----------------------------------------------------------------------------------------------------

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        """Register a service and return the id of its provider. The id is empty where the address is `auto` and the
        module does not listen yet: the service is then registered once it listens. Raises MessagingError; with the code
        `refused` its message is that of the orchestrator."""
        if is_taken(name, self._module_id, self._modules):
            text = "this is the id of another module (services.static): give the service another name"
            raise MessagingError("refused", text, name)
        kind = service_type_of(service_type)
        own = _OwnService(Register(kind, name, address, version, metadata), address == AUTO)
        if own.auto:
            if not self._address:
                self._own[kind, name] = own
                return ""
            own.wanted = replace(own.wanted, address=self._address)
        before = self._own.get((kind, name))
        await self._register(own)
        self._own[kind, name] = own
        if before is not None:
            await self._unregister(before, {*own.ids.values()})
        return own.id

    async def _register(self, own: _OwnService) -> None:
        """Register in all registries. Raises MessagingError where one refuses."""
        wanted = own.wanted
        own.ids["own"] = f"{self._module_id}/{wanted.service_type}/{wanted.name}"
        if self._orchestrator.configured:
            answer: Registered = await self._orchestrator.request(wanted, TIMEOUT)
            if not answer.success:
                raise MessagingError("refused", _reason(answer.error), wanted.name)
            own.ids["orchestrator"] = answer.provider_id or ""
        if self._registry is not None:
            own.ids["nats"] = await self._registry.register(
                wanted.name, wanted.service_type, wanted.address, wanted.version, wanted.metadata or {}
            )

    async def deregister(self, service: str) -> None:
        """Deregister a service, by the id that `register` returned or by its name. Raises MessagingError where this
        module has not registered it."""
        found = [key for key, own in self._own.items() if service in (key[1], *own.ids.values())]
        if not found:
            raise MessagingError("unknown_target", "this module has not registered this service", service)
        for key in found:
            await self._unregister(self._own.pop(key), set())

    async def _unregister(self, own: _OwnService, still: set[str]) -> None:
        """Remove a service from all registries, apart from the ids in `still`, which are in use again."""
        nats, orchestrator = own.ids.get("nats", ""), own.ids.get("orchestrator", "")
        if self._registry is not None and nats and nats not in still:
            await self._registry.deregister(nats)
        if orchestrator and orchestrator not in still:
            self._deregister_at_orchestrator(orchestrator, own.wanted.name)

    def _deregister_at_orchestrator(self, provider_id: str, name: str) -> None:
        for connection in self._orchestrator.connections():
            if "deregister" in connection.session.extensions:
                connection.send(Deregister(provider_id))
                return
        logger.warning(
            "the orchestrator does not support deregistering: %s stays registered until this module ends", name
        )

    async def _register_again(self, connection: PeerConnection) -> None:
        for own in tuple(self._own.values()):
            if own.auto and own.wanted.address == AUTO:
                continue
            try:
                answer = await connection.session.request(own.wanted, TIMEOUT)
                if not answer.success:
                    raise MessagingError("refused", _reason(answer.error), own.wanted.name)
                own.ids["orchestrator"] = answer.provider_id or ""
            except HostError as error:
                logger.warning("service %s could not be registered again: %s", own.wanted.name, error)

    def announce(self, address: str) -> None:
        """The module listens on `http://HOST:PORT` or `unix:PATH`: register the services that wait for that."""
        self._address = self._reachable(address)
        for offer in self._offers:
            kind = service_type_of(offer.type)
            wanted = Register(kind, offer.name, offer.address, offer.version, dict(offer.metadata))
            self._own.setdefault((kind, offer.name), _OwnService(wanted, offer.address == AUTO))
        if self._registry is not None and self._address:
            self._spawn(self._register_module(self._registry))
        for own in self._own.values():
            if own.wanted.address == AUTO and self._address:
                own.wanted = replace(own.wanted, address=self._address)
            if not own.ids and own.wanted.address != AUTO:
                self._spawn(self._register_offer(own))

    async def _register_module(self, registry: RemoteRegistry) -> None:
        try:
            await registry.register(self._module_id, MODULE, self._address, None, {})
        except MessagingError as error:
            logger.warning("%s", error)

    async def _register_offer(self, own: _OwnService) -> None:
        try:
            await self._register(own)
            logger.info(
                "service %s is registered (%s at %s)", own.wanted.name, own.wanted.service_type, own.wanted.address
            )
        except HostError as error:
            logger.warning(
                "service %s could not be registered: %s; trying again with the next connection", own.wanted.name, error
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _reachable(self, address: str) -> str:
        """The address as others reach it: for a listener on all interfaces, the host is an address of this machine."""
        if not address.startswith("http"):
            return address
        url = urlsplit(address)
        host = url.hostname or ""
        if self._advertise is not None:
            host = self._advertise
        elif host in _ALL_INTERFACES:
            host = own_address(self._towards())
        return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{url.port}"

    # Finding --------------------------------------------------------------------------------------------------------

    async def discover(self, service_type: str) -> list[Provider]:
        """All providers of a service type, healthy ones first. Raises MessagingError where none is known and a registry
        cannot be asked."""
        kind = service_type_of(service_type)
        found, failure = await self._ask_registries(kind)
        found = without_impostors(found, self._modules)
        probed = await asyncio.gather(*(each.provider() for each in self._static if each.kind == kind))
        found += probed
        if not self._orchestrator.configured and self._registry is None:
            found += [self._as_provider(own) for own in self._own.values() if own.wanted.service_type == kind]
        if failure is not None and not found:
            raise failure
        return sorted(_distinct(found), key=lambda provider: not provider.is_healthy)

    async def _ask_registries(self, kind: str) -> tuple[list[Provider], MessagingError | None]:
        found: list[Provider] = []
        failure: MessagingError | None = None
        if self._registry is not None:
            try:
                found += await self._registry.discover(kind)
            except MessagingError as error:
                failure = error
        if self._orchestrator.configured:
            try:
                found += await self._discovered(kind)
            except MessagingError as error:
                failure = error
        return found, failure

    async def _discovered(self, kind: str) -> list[Provider]:
        """The providers that the orchestrator knows. Raises MessagingError."""
        answer: Discovered = await self._orchestrator.request(Discover(kind, True), TIMEOUT)
        if not answer.success:
            raise MessagingError("refused", _reason(answer.error), kind)
        return list(answer.providers)

    def _as_provider(self, own: _OwnService) -> Provider:
        wanted = own.wanted
        return Provider(
            own.id, self._module_id, wanted.service_type, wanted.name, wanted.version, wanted.address,
            dict(wanted.metadata or {}), self._healthy(),
        )  # fmt: skip

    async def locate(self, name: str) -> list[tuple[str, bool]]:
        """The HTTP addresses of the module of this id and, only where there is none, of services of that name; and
        whether each is healthy; healthy ones first. The name is compared without regard to case. Addresses are
        `http://HOST:PORT`, `https://HOST:PORT` or `http+unix:PATH`. Raises MessagingError `unknown_target` where there
        is none, and the error of a registry that could not be asked where a module of this id may be in it."""
        wanted = name.lower()
        static = [
            each.last_known() for each in self._static if each.service.name.lower() == wanted and not each.is_channel
        ]
        found = list(static)
        failure: MessagingError | None = None
        if self._registry is not None:
            try:
                found += await self._registry.find(wanted)
            except MessagingError as error:
                failure = error
        if self._orchestrator.configured:
            try:
                found += await self._named(wanted)
            except MessagingError as error:
                failure = error
        found = of_that_name(found, wanted, {*self._modules, self._module_id})
        if failure is not None and not any(each.module_id.lower() == wanted for each in found):
            found = [each for each in found if each in static]  # the manifest is sure, whatever a registry would say
        found.sort(key=lambda provider: not provider.is_healthy)
        addresses: dict[str, bool] = {}
        for each in found:
            address = http_address(each.address)
            if address is not None:
                addresses.setdefault(address, each.is_healthy)
        own = http_address(self._address) if self._address else None
        if not addresses and wanted == self._module_id.lower() and own is not None:
            addresses[own] = True
        if addresses:
            return list(addresses.items())
        if failure is not None:
            raise failure
        text = (
            "no module and no service of this name has an HTTP address."
            " Add it to services.static here, or to services.register there"
        )
        raise MessagingError("unknown_target", text, name)

    async def _named(self, name: str) -> list[Provider]:
        """The providers that the local orchestrator knows by this name. Answers are cached for `_CACHE_TTL` seconds."""
        now = time.monotonic()
        cached = self._cache.get(name)
        if cached is None or cached[0] <= now:
            if len(self._cache) > _MAX_CACHED:
                self._cache.clear()
            cached = self._cache[name] = (now + _CACHE_TTL, await self._discovered(NAME_PREFIX + name))
        return cached[1]

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for task in tuple(self._background):
                task.cancel()


def _distinct(found: Sequence[Provider]) -> list[Provider]:
    """The providers without duplicates: two registries may know the same one."""
    return list({(each.module_id, each.service_type, each.name, each.address): each for each in found}.values())


def _reason(error: str | None) -> str:
    return (error or "the orchestrator did not say why")[:300]
