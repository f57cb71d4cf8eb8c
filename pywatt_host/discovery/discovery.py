"""Services by type: offering one, and finding those of others: told in the manifest, by an orchestrator, on NATS."""

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
NAMED = "module:"  # what our orchestrator takes for: those of this module, or of this name
_FRESH = 2.0  # seconds for which what was found out is right
_EVERYWHERE = ("0.0.0.0", "::", "")


class RemoteRegistry(Protocol):
    """Where modules of many machines register: see cluster.registry."""

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str]
    ) -> str: ...

    async def deregister(self, provider_id: str) -> bool: ...

    async def discover(self, service_type: str) -> list[Provider]: ...

    async def find(self, wanted: str) -> list[Provider]: ...


@dataclass(slots=True)
class _OwnService:
    """A service of this module, and what it is called where it is registered."""

    wanted: Register
    auto: bool
    ids: dict[str, str] = field(default_factory=dict)  # "orchestrator", "nats", "own"

    @property
    def id(self) -> str:
        return self.ids.get("orchestrator") or self.ids.get("nats") or self.ids.get("own", "")


class Discovery:
    """What this module offers is registered anew on each new connection."""

    name = "discovery"

    def __init__(
        self,
        module_id: str,
        uplink: PeerClient,
        registry: RemoteRegistry | None = None,
        static: Sequence[StaticService] = (),
        *,
        offers: Sequence[RegisteredService] = (),
        advertise: str | None = None,
        towards: Callable[[], Sequence[tuple[str, int]]] = tuple,
        healthy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`offers` are registered once the module listens. `advertise`: the host in addresses that are `auto`;
        `towards`: where else to look for the address of this machine that others reach."""
        self._module_id = module_id
        self._uplink = uplink
        self._registry = registry
        self._static = [StaticProvider(service) for service in static]
        self._offers = offers
        self._advertise = advertise
        self._towards = towards
        self._healthy = healthy
        self._address = ""
        self._own: dict[tuple[str, str], _OwnService] = {}
        self._found: dict[str, tuple[float, list[Provider]]] = {}
        self._background: set[asyncio.Task[None]] = set()
        uplink.on_connected(self._register_again)

    # Offering -------------------------------------------------------------------------------------------------------

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        """The provider's id; empty where the address is `auto` and the module does not listen yet, with which it is
        registered then. Raises MessagingError, `refused` with the orchestrator's own words."""
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
            await self._take_back(before, {*own.ids.values()})
        return own.id

    async def _register(self, own: _OwnService) -> None:
        """Everywhere. Raises MessagingError where one says no."""
        wanted = own.wanted
        own.ids["own"] = f"{self._module_id}/{wanted.service_type}/{wanted.name}"
        if self._uplink.configured:
            answer: Registered = await self._uplink.request(wanted, TIMEOUT)
            if not answer.success:
                raise MessagingError("refused", _words(answer.error), wanted.name)
            own.ids["orchestrator"] = answer.provider_id or ""
        if self._registry is not None:
            own.ids["nats"] = await self._registry.register(
                wanted.name, wanted.service_type, wanted.address, wanted.version, wanted.metadata or {}
            )

    async def deregister(self, service: str) -> None:
        """Of the id that registering gave, or the name. Raises MessagingError where this module has not registered
        it."""
        found = [key for key, own in self._own.items() if service in (key[1], *own.ids.values())]
        if not found:
            raise MessagingError("unknown_target", "this module has registered no such service", service)
        for key in found:
            await self._take_back(self._own.pop(key), set())

    async def _take_back(self, own: _OwnService, still: set[str]) -> None:
        """Wherever it is registered, but for those ids that count still."""
        nats, orchestrator = own.ids.get("nats", ""), own.ids.get("orchestrator", "")
        if self._registry is not None and nats and nats not in still:
            await self._registry.deregister(nats)
        if orchestrator and orchestrator not in still:
            self._tell_gone(orchestrator, own.wanted.name)

    def _tell_gone(self, provider_id: str, name: str) -> None:
        for conversation in self._uplink.conversations():
            if "deregister" in conversation.session.extensions:
                conversation.reply(Deregister(provider_id))
                return
        logger.warning("the orchestrator cannot forget %s before this module ends", name)

    async def _register_again(self, conversation: PeerConnection) -> None:
        for own in tuple(self._own.values()):
            if own.auto and own.wanted.address == AUTO:
                continue
            try:
                answer = await conversation.session.request(own.wanted, TIMEOUT)
                if not answer.success:
                    raise MessagingError("refused", _words(answer.error), own.wanted.name)
                own.ids["orchestrator"] = answer.provider_id or ""
            except HostError as error:
                logger.warning("%s could not be registered again: %s", own.wanted.name, error)

    def announce(self, address: str) -> None:
        """The module listens, on `http://HOST:PORT` or `unix:PATH`: what waits for that is registered."""
        self._address = self._reachable(address)
        for offer in self._offers:
            kind = service_type_of(offer.type)
            wanted = Register(kind, offer.name, offer.address, offer.version, dict(offer.metadata))
            self._own.setdefault((kind, offer.name), _OwnService(wanted, offer.address == AUTO))
        if self._registry is not None and self._address:
            self._spawn(self._be_there(self._registry))
        for own in self._own.values():
            if own.wanted.address == AUTO and self._address:
                own.wanted = replace(own.wanted, address=self._address)
            if not own.ids and own.wanted.address != AUTO:
                self._spawn(self._offered(own))

    async def _be_there(self, registry: RemoteRegistry) -> None:
        try:
            await registry.register(self._module_id, MODULE, self._address, None, {})
        except MessagingError as error:
            logger.warning("%s", error)

    async def _offered(self, own: _OwnService) -> None:
        try:
            await self._register(own)
            logger.info("%s is registered (%s at %s)", own.wanted.name, own.wanted.service_type, own.wanted.address)
        except HostError as error:
            logger.warning("%s could not be registered: %s; tried again when connected", own.wanted.name, error)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _reachable(self, address: str) -> str:
        """The address for others: of a listener on every interface, one of this machine."""
        if not address.startswith("http"):
            return address
        url = urlsplit(address)
        host = url.hostname or ""
        if self._advertise is not None:
            host = self._advertise
        elif host in _EVERYWHERE:
            host = own_address(self._towards())
        return f"{url.scheme}://{f'[{host}]' if ':' in host else host}:{url.port}"

    # Finding --------------------------------------------------------------------------------------------------------

    async def discover(self, service_type: str) -> list[Provider]:
        """Every provider of a type, healthy ones first. Raises MessagingError where none is known and somebody who may
        know cannot be asked."""
        kind = service_type_of(service_type)
        found, failure = await self._ask(kind)
        probed = await asyncio.gather(*(each.provider() for each in self._static if each.kind == kind))
        found += probed
        if not self._uplink.configured and self._registry is None:
            found += [self._as_provider(own) for own in self._own.values() if own.wanted.service_type == kind]
        if failure is not None and not found:
            raise failure
        return sorted(_distinct(found), key=lambda provider: not provider.is_healthy)

    async def _ask(self, kind: str) -> tuple[list[Provider], MessagingError | None]:
        found: list[Provider] = []
        failure: MessagingError | None = None
        if self._registry is not None:
            try:
                found += await self._registry.discover(kind)
            except MessagingError as error:
                failure = error
        if self._uplink.configured:
            try:
                found += await self._discovered(kind)
            except MessagingError as error:
                failure = error
        return found, failure

    async def _discovered(self, kind: str) -> list[Provider]:
        """Of the orchestrator. Raises MessagingError."""
        answer: Discovered = await self._uplink.request(Discover(kind, True), TIMEOUT)
        if not answer.success:
            raise MessagingError("refused", _words(answer.error), kind)
        return list(answer.providers)

    def _as_provider(self, own: _OwnService) -> Provider:
        wanted = own.wanted
        return Provider(
            own.id, self._module_id, wanted.service_type, wanted.name, wanted.version, wanted.address,
            dict(wanted.metadata or {}), self._healthy(),
        )  # fmt: skip

    async def locate(self, name: str) -> list[tuple[str, bool]]:
        """HTTP addresses of a module or a service of that name, in any case, `http://HOST:PORT`, `https://HOST:PORT` or
        `http+unix:PATH`, and whether they are healthy: those first. Raises MessagingError `unknown_target`."""
        wanted = name.lower()
        found = [each.at_rest() for each in self._static if each.service.name.lower() == wanted and not each.is_channel]
        failure: MessagingError | None = None
        if self._registry is not None:
            try:
                found += await self._registry.find(wanted)
            except MessagingError as error:
                failure = error
        if self._uplink.configured:
            try:
                found += await self._named(wanted)
            except MessagingError as error:
                failure = error
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
        text = "no module and no service of this name has an HTTP address (services.static, or its services.register)"
        raise MessagingError("unknown_target", text, name)

    async def _named(self, name: str) -> list[Provider]:
        """Of our orchestrator, which knows them by name; asked again after a moment only."""
        now = time.monotonic()
        known = self._found.get(name)
        if known is None or known[0] <= now:
            if len(self._found) > 1000:
                self._found.clear()
            known = self._found[name] = (now + _FRESH, await self._discovered(NAMED + name))
        return known[1]

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            yield
        finally:
            for task in tuple(self._background):
                task.cancel()


def _distinct(found: Sequence[Provider]) -> list[Provider]:
    """One that is told by two is one."""
    return list({(each.module_id, each.service_type, each.name, each.address): each for each in found}.values())


def _words(error: str | None) -> str:
    return (error or "the orchestrator did not say why")[:300]
