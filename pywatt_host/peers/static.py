"""The modules of `services.static`: kept connections to where they take channels, and their HTTP listeners."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from pywatt_host.channels.sockets import Target, UnixTarget, parse_target
from pywatt_host.channels.wire import Trace
from pywatt_host.manifest.model import Manifest, StaticService
from pywatt_host.manifest.model.services import MODULE
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.messaging.http_client import rendered
from pywatt_host.net.tls import client_context
from pywatt_host.peers.client import Connector, PeerClient, PeerHandlers, PeerRoute
from pywatt_host.protocol.payload import Payload

if TYPE_CHECKING:
    pass

STREAM_SCHEMES = ("unix:", "tcp://")

Texts = Callable[[], Mapping[str, str]]


def static_modules(manifest: Manifest) -> list[StaticService]:
    """Those that messages may be sent to."""
    return [each for each in manifest.services.static if each.type == MODULE]


class StaticPeers:
    """Modules that this one connects itself to. As a carrier: the way to each; as a service: their connections."""

    name = "peers that are connected to"

    def __init__(
        self,
        manifest: Manifest,
        secret_values: Texts,
        handlers: PeerHandlers,
        trace: Trace | None,
        topics: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Raises ChannelError for TLS files that cannot be used."""
        self._by_name: dict[str, PeerClient] = {}
        found: dict[str, list[Connector]] = {}
        for service in static_modules(manifest):
            if service.address.startswith(STREAM_SCHEMES):
                found.setdefault(service.name, []).append(_connector(manifest, service, secret_values))
        limits = manifest.channels.limits
        for name, connectors in found.items():
            uplink = PeerClient(
                manifest.module_id, connectors, handshake=None, frame_limit=limits.frame,
                handshake_timeout=limits.handshake, heartbeats_missed=limits.heartbeat_missed, trace=trace, peer=name,
                handlers=handlers, topics=topics,
            )  # fmt: skip
            self._by_name[name] = uplink

    @property
    def all(self) -> Mapping[str, PeerClient]:
        return self._by_name

    def routes(self, target: str, channel: str | None) -> Sequence[PeerRoute]:
        """See Carrier."""
        uplink = self._by_name.get(target)
        return uplink.routes(target, channel) if uplink is not None else ()

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """See Carrier."""
        told = [await uplink.publish(topic, event, channel) for uplink in self._by_name.values()]
        return True if True in told else None

    def subscribe(self, topic: str) -> None:
        for uplink in self._by_name.values():
            uplink.subscribe(topic)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for uplink in self._by_name.values():
                await stack.enter_async_context(uplink.running(tasks))
                await stack.enter_async_context(uplink.connecting(tasks, late=True))
            yield


def _connector(manifest: Manifest, service: StaticService, secret_values: Texts) -> Connector:
    key = f"services.static {service.name}: tls"
    tcp = manifest.channels.tcp
    if service.address.startswith("unix:"):
        target: Target = UnixTarget(str(manifest.resolve(service.address[5:])))
        return Connector(target, lambda: rendered(service.token, secret_values()))
    context = client_context(service.tls, manifest.resolve, "tcp", key) if service.tls is not None else None
    name = service.tls.server_name if service.tls is not None else None
    token = service.token or (tcp.token if tcp is not None else None)
    secret = isinstance(token, SecretTemplate)
    target = parse_target(service.address.removeprefix("tcp://").rstrip("/"), context, name)
    return Connector(target, lambda: rendered(token, secret_values()), late=secret)
