"""The registry of services: what each process offers, for as long as the process lives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from uuid import uuid4

from pywatt_host.orchestrator.replica import Replica
from pywatt_host.peers.names import is_taken
from pywatt_host.protocol.messages import Deregister, Discover, Discovered, Provider, Register, Registered
from pywatt_host.protocol.session import cut

MODULE, NAMED = "module", "module:"
MAX_PROVIDERS = 1000  # of one process
_MAX_TEXT_LENGTH = 1024  # characters of a name or an address
_MAX_METADATA_LENGTH = 16 * 1024  # characters of the version and the metadata of a provider


@dataclass(frozen=True, slots=True)
class _Entry:
    provider: Provider
    replica: Replica


class ServiceRegistry:
    """Providers by id. A service that the same process registers again keeps its id."""

    def __init__(
        self,
        healthy: Callable[[Replica], bool] = lambda replica: replica.healthy,
        replicas: Callable[[], Iterable[Replica]] = tuple,
    ) -> None:
        """`replicas`: the processes of all modules."""
        self._entries: dict[str, _Entry] = {}
        self._replicas = replicas
        self._healthy = healthy

    def register(self, message: Register, replica: Replica) -> Registered:
        """Answer `register_service_provider`."""
        own = [entry.provider for entry in self._entries.values() if entry.replica is replica]
        if is_taken(message.name, replica.module, self._modules()):
            why = f"{cut(message.name, 60)} is the id of another module: give the service another name"
            return Registered(False, None, why, message.request_id)
        if max(len(message.name), len(message.address), len(message.service_type)) > _MAX_TEXT_LENGTH:
            why = f"a name or an address is longer than {_MAX_TEXT_LENGTH} characters"
            return Registered(False, None, why, message.request_id)
        metadata = message.metadata or {}
        length = len(message.version or "") + sum(len(name) + len(text) for name, text in metadata.items())
        if length > _MAX_METADATA_LENGTH:
            why = f"version and metadata are longer than {_MAX_METADATA_LENGTH} characters"
            return Registered(False, None, why, message.request_id)
        known = next(
            (
                each.provider_id
                for each in own
                if (each.service_type, each.name, each.address) == (message.service_type, message.name, message.address)
            ),
            None,
        )
        if known is None and len(own) >= MAX_PROVIDERS:
            why = f"{MAX_PROVIDERS} services of this module are registered already"
            return Registered(False, None, why, message.request_id)
        provider_id = known or str(uuid4())
        provider = Provider(
            provider_id,
            replica.module,
            message.service_type,
            message.name,
            message.version,
            message.address,
            dict(metadata),
        )
        self._entries[provider_id] = _Entry(provider, replica)
        return Registered(True, provider_id, None, message.request_id)

    def deregister(self, message: Deregister, replica: Replica) -> None:
        """Forget a service, where this process has registered it."""
        entry = self._entries.get(message.provider_id)
        if entry is not None and entry.replica is replica:
            del self._entries[message.provider_id]

    def discover(self, message: Discover) -> Discovered:
        """Answer `discover_service_providers`: the first healthy provider, or all of them, the healthy ones first. The
        service type `module` means every module, at the address where it listens; `module:NAME` means the module of
        that id and, only where there is none, the services with that name."""
        kind = message.service_type
        if kind.startswith(NAMED):
            name = kind.removeprefix(NAMED).lower()  # from a URL, whose hosts have no case
            if name in {id.lower() for id in self._modules()}:
                found = [each for each in self._listening() if each.module_id.lower() == name]
            else:
                found = [each for each in self.all() if name == each.name.lower()]
        else:
            found = [each for each in self.all() if each.service_type == kind]
            found += self._listening() if kind == MODULE else []
        found.sort(key=lambda provider: not provider.is_healthy)
        if not message.all_providers:
            found = [provider for provider in found if provider.is_healthy][:1]
        return Discovered(True, tuple(found), None, message.request_id)

    def _modules(self) -> set[str]:
        """The ids of all modules, running or not."""
        return {replica.module for replica in self._replicas()}

    def _listening(self) -> list[Provider]:
        """The processes that have announced where they listen, as providers."""
        return [
            Provider(
                replica.label, replica.module, MODULE, replica.module, None, _listening_at(replica.announce.listen),
                {}, self._healthy(replica),
            )
            for replica in self._replicas()
            if replica.announce is not None and replica.announce.listen
        ]  # fmt: skip

    def gone(self, replica: Replica) -> None:
        """Forget what a process that has ended had registered."""
        for provider_id in [id for id, entry in self._entries.items() if entry.replica is replica]:
            del self._entries[provider_id]

    def all(self) -> list[Provider]:
        """Every registered provider of a process in use, with its present health. During a reload, the services of a
        process come and go with its use."""
        return [
            replace(entry.provider, is_healthy=self._healthy(entry.replica))
            for entry in self._entries.values()
            if entry.replica.in_use
        ]


def _listening_at(listen: str) -> str:
    """An announced address, with its scheme."""
    if listen.startswith("https://"):
        return listen
    return f"unix:{listen}" if listen.startswith("/") else f"http://{listen}"
