"""The modules of `services.static`: a client for each that takes channels, and the list of all for HTTP."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from pywatt_host.channels.sockets import Target, UnixTarget, parse_target
from pywatt_host.channels.wire import Trace
from pywatt_host.manifest.model import Manifest, StaticService
from pywatt_host.manifest.model.services import MODULE
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.messaging.http_client import rendered
from pywatt_host.net.tls import client_context
from pywatt_host.peers.client import PeerClient, PeerHandlers, PeerRoute
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.protocol.payload import Payload

STREAM_SCHEMES = ("unix:", "tcp://")

SecretValues = Callable[[], Mapping[str, str]]


def static_modules(manifest: Manifest) -> list[StaticService]:
    """The static services that messages may be sent to."""
    return [each for each in manifest.services.static if each.type == MODULE]


class StaticPeers:
    """Modules that this one connects to: a transport with a route to each, and a service that keeps the connections."""

    name = "peers that are connected to"

    def __init__(
        self,
        manifest: Manifest,
        secret_values: SecretValues,
        handlers: PeerHandlers,
        trace: Trace | None,
        topics: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`handlers` and `topics`: see PeerClient. Raises ChannelError for TLS files that cannot be used."""
        self._clients: dict[str, PeerClient] = {}
        found: dict[str, list[Connector]] = {}
        for service in static_modules(manifest):
            if service.address.startswith(STREAM_SCHEMES):
                found.setdefault(service.name, []).append(_connector(manifest, service, secret_values))
        limits = manifest.channels.limits
        for name, connectors in found.items():
            self._clients[name] = PeerClient(
                manifest.module_id, connectors, handshake=None, frame_limit=limits.frame,
                handshake_timeout=limits.handshake, heartbeats_missed=limits.heartbeat_missed, trace=trace, peer=name,
                handlers=handlers, topics=topics,
            )  # fmt: skip

    @property
    def all(self) -> Mapping[str, PeerClient]:
        """The clients, by the name of the module."""
        return self._clients

    def routes(self, target: str, channel: str | None) -> Sequence[PeerRoute]:
        """See Transport."""
        client = self._clients.get(target)
        return client.routes(target, channel) if client is not None else ()

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """See Transport."""
        sent = [await client.publish(topic, event, channel) for client in self._clients.values()]
        return True if True in sent else None

    def subscribe(self, topic: str) -> None:
        """See PeerClient."""
        for client in self._clients.values():
            client.subscribe(topic)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for client in self._clients.values():
                await stack.enter_async_context(client.running(tasks))
                await stack.enter_async_context(client.connecting(tasks, with_secrets=True))
            yield


def _connector(manifest: Manifest, service: StaticService, secret_values: SecretValues) -> Connector:
    key = f"services.static {service.name}: tls"
    tcp = manifest.channels.tcp
    if service.address.startswith("unix:"):
        target: Target = UnixTarget(str(manifest.resolve(service.address[5:])))
        return Connector(target, lambda: rendered(service.token, secret_values()))
    context = client_context(service.tls, manifest.resolve, "tcp", key) if service.tls is not None else None
    name = service.tls.server_name if service.tls is not None else None
    token = service.token or (tcp.token if tcp is not None else None)
    target = parse_target(service.address.removeprefix("tcp://").rstrip("/"), context, name)
    needs_secrets = isinstance(token, SecretTemplate)
    return Connector(target, lambda: rendered(token, secret_values()), needs_secrets=needs_secrets)
