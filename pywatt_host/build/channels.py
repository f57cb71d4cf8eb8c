"""From the manifest's `channels` to what is connected and listened on: targets, tokens, TLS, sockets; and how all of
it does, for health and metrics. Loaded only where there is any channel; `offline` stands in for it elsewhere."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from pywatt_host.build.http_peers import http_peers
from pywatt_host.channels.stdio import Handshake
from pywatt_host.channels.trace import TraceFile
from pywatt_host.discovery.discovery import Discovery
from pywatt_host.exceptions import ChannelError
from pywatt_host.manifest.model import Manifest
from pywatt_host.messaging.http_client import HttpTransport, rendered
from pywatt_host.messaging.http_requests import ChannelRequests
from pywatt_host.messaging.http_server import HttpMessages as HttpDoor
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.messages import CallPolicy, Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.messaging.transport import Transport
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.peers.client import Connector, PeerClient, PeerHandlers
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.incoming import IncomingMessages
from pywatt_host.peers.remote_stores import Proxying
from pywatt_host.peers.server import PeerServer
from pywatt_host.peers.static import StaticPeers, static_modules
from pywatt_host.peers.targets import connectors, open_doors
from pywatt_host.peers.token import ChannelToken, TokenDependant
from pywatt_host.protocol.messages import AnnouncedEndpoint, Event, GetSecret, Publish, SecretValue
from pywatt_host.protocol.payload import Payload
from pywatt_host.secrets import Masker
from pywatt_host.service import Dependant, Service
from pywatt_host.types import ASGIApp

if TYPE_CHECKING:
    from pywatt_host.nats.channel import NatsMessaging

_SECRET_TIMEOUT = 10.0  # seconds for the orchestrator to answer

Values: TypeAlias = dict[tuple[str, ...], float]


class HostChannels:
    """All ways to an orchestrator, to peers and to NATS: what leads there as services, and what answers on it.

    Raises ChannelError for channels that cannot be, OSError for a trace that cannot be written.
    """

    name = "channels"
    configured = True

    def __init__(
        self,
        manifest: Manifest,
        handshake: Handshake | None,
        *,
        app: Callable[[], ASGIApp | None],
        health: Callable[[], Mapping[str, Any]],
        secret_values: Callable[[], Mapping[str, str]],
        masker: Masker,
        trace: Path | None,
        policy: Callable[[str], CallPolicy | None] = lambda target: None,
        private: Callable[[str, str], Awaitable[str]] | None = None,
    ) -> None:
        channels, limits, module_id = manifest.channels, manifest.channels.limits, manifest.module_id
        init = handshake.init if handshake is not None else None
        if init is not None and init.auth_token is not None:
            masker.add("init.auth_token", init.auth_token)
        writer = TraceFile(trace, masker.mask) if trace is not None else None
        self._manifest = manifest
        self._trace = writer
        self._health = health
        self.token = ChannelToken(manifest, init, secret_values)
        self.uplink = PeerClient(
            module_id,
            connectors(manifest, init, self.token),
            handshake=handshake,
            frame_limit=limits.frame,
            handshake_timeout=limits.handshake,
            heartbeats_missed=limits.heartbeat_missed,
            trace=writer,
        )
        self.inbox = Inbox(module_id, limits.messages, limits.rate)
        self.incoming = IncomingMessages(self.inbox)
        self.topics = Subscriptions(self.inbox.counts)
        self.stores = Proxying(self.uplink)
        self._unary = ChannelRequests(
            app, body=manifest.server.limits.body, frame=limits.frame, timeout=manifest.server.timeouts.request
        )
        self.listening = PeerServer(
            module_id,
            frame_limit=limits.frame,
            handshake_timeout=limits.handshake,
            message=self.incoming.from_client,
            health=health,
            event=self._published,
            trace=writer,
        )
        self.peers = StaticPeers(manifest, secret_values, self._peer_duties(), writer)
        self.posting = HttpTransport(http_peers(manifest, secret_values))
        self.door: HttpDoor | None = None
        if channels.http is not None:
            token = channels.http.token
            self.door = HttpDoor(self.inbox, lambda: rendered(token, secret_values()), limits.frame, self._event)
        self.cluster: NatsMessaging | None = None
        if channels.nats is not None:
            self.cluster = import_module("pywatt_host.nats.channel").NatsMessaging(
                channels.nats, self.inbox, lambda: self.topics.all, self._event, secret_values=secret_values,
                resolve=manifest.resolve, timeout=limits.handshake, healthy=self._is_healthy, private=private,
            )  # fmt: skip
        self.messages = Messages(self.inbox, self.topics, self._carriers(), policy)
        self.discovery = Discovery(
            module_id,
            self.uplink,
            self.cluster.registry if self.cluster is not None else None,
            manifest.services.static,
            offers=manifest.services.register_,
            advertise=manifest.services.advertise,
            towards=self._towards,
            healthy=self._is_healthy,
        )
        self._tell_of_topics()
        self.late: Service = _Late(self.uplink, self.peers, self.cluster)
        # Left in reverse: nobody new is let in, then what came is handled, then what that has sent has its answer.
        self.answering: tuple[Service, ...] = (
            self._unary, self.posting, self.messages, self.discovery, self.topics,
            *(self.cluster.answering(self.inbox) if self.cluster is not None else (self.inbox,)),
        )  # fmt: skip
        self.orchestrator_api = self.uplink.address
        # An orchestrator that is only reached with a token made of secrets cannot be asked for those.
        early = handshake is not None or any(not connector.late for connector in self.uplink.connectors)
        self.fetch = self._fetch if early else None

    def _carriers(self) -> list[Transport]:
        found: list[Transport] = []
        if static_modules(self._manifest):
            found += [self.peers, self.posting]
        channels = self._manifest.channels
        if any(each is not None and each.listen is not None for each in (channels.ipc, channels.tcp)):
            found.append(self.listening)
        if self.uplink.configured:
            found.append(self.uplink)
        if self.cluster is not None:
            found.append(self.cluster.messages)
        return found

    def _tell_of_topics(self) -> None:
        for each in (self.uplink, self.peers):
            each.subscribed_to(lambda: self.topics.all)
            self.topics.added.append(each.subscribe)
        if self.cluster is not None:
            self.topics.added.append(self.cluster.messages.subscribe)

    def _is_healthy(self) -> bool:
        return self._health().get("status") != "unhealthy"

    def _towards(self) -> list[tuple[str, int]]:
        """Whom this module is connected to, for the address of its own that leads there."""
        nats = self._manifest.channels.nats
        urls = [*(nats.servers if nats is not None else ()), *filter(None, (self.orchestrator_api,))]
        found = [urlsplit(url) for url in urls]
        return [(url.hostname, url.port or 4222) for url in found if url.hostname]

    # What comes -----------------------------------------------------------------------------------------------------

    def attend(
        self,
        rotated: Callable[[str, Sequence[str]], Awaitable[str]],
        shutdown: Callable[[str], None],
        lost: Callable[[str], None],
    ) -> None:
        """Say what the orchestrator's words lead to; before it is run."""
        self.uplink.duties = PeerHandlers(
            health=self._health,
            http=self._unary,
            message=self.incoming.from_orchestrator,
            rotated=rotated,
            shutdown=shutdown,
            lost=lost,
            event=self._passed_on,
        )

    def _peer_duties(self) -> PeerHandlers:
        """What a peer that this module is connected to may ask of it: to take messages and events."""
        return PeerHandlers(
            health=self._health, http=self._unary, message=self.incoming.from_connected_peer, rotated=_nothing_rotates,
            shutdown=lambda why: None, lost=lambda why: None, event=self._told,
        )  # fmt: skip

    def _passed_on(self, event: Event, conversation: PeerConnection) -> None:
        """By the orchestrator."""
        self._event(event.topic, event.source_module_id, event.payload, conversation.channel, "orchestrator")

    def _told(self, event: Event, conversation: PeerConnection) -> None:
        """By a peer that this module is connected to."""
        self._event(event.topic, conversation.module_id, event.payload, conversation.channel, conversation.vouched_by)

    def _published(self, event: Publish, conversation: PeerConnection) -> None:
        """By a peer that is connected to this module."""
        self._event(event.topic, conversation.module_id, event.payload, conversation.channel, conversation.vouched_by)

    def _event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        self.messages.event(topic, source, payload, channel, vouched_by)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            async with self.uplink.running(tasks):
                yield
        finally:
            if self._trace is not None:
                self._trace.close()

    async def _fetch(self, name: str) -> str:
        """A secret of the orchestrator's. Raises MessagingError, `unknown_secret` where it has none."""
        answer: SecretValue = await self.uplink.request(GetSecret(name), _SECRET_TIMEOUT)
        return answer.value

    def open_doors(self) -> None:
        """Bind what is listened on. Raises BindError and ChannelError; nothing stays bound then."""
        open_doors(self._manifest, self.listening, self.token)

    def close_doors(self) -> None:
        self.listening.close()

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        """Tell everyone where what is served: `http://IP:port` or `unix:PATH`, path templates with methods and the
        names of what guards them."""
        listen = address.removeprefix("http://").removeprefix("unix:")
        announced = [AnnouncedEndpoint(path, methods, auth or None) for path, methods, auth in endpoints]
        self.uplink.announce(listen, announced)
        self.discovery.announce(address)

    def draining(self) -> None:
        self.uplink.draining()
        if self.cluster is not None:
            self.cluster.withdraw()

    def dependants(self) -> list[Dependant]:
        """What follows a rotation of secrets here."""
        found: list[Dependant] = [TokenDependant(self.uplink, self.token)] if self.token.names else []
        if self.cluster is not None and self.cluster.dependant.names:
            found.append(self.cluster.dependant)
        return found

    def add_checks(self, checks: Checks) -> None:
        """One for each channel to the orchestrator and to NATS. One that need not be there only degrades the health."""
        for connector in self.uplink.connectors:
            checks.add(f"channel:{connector.target.channel}", _connected(connector), optional=not connector.required)
        if self.cluster is not None:
            required = self.cluster.connection.settings.required
            checks.add("channel:nats", self.cluster.connection.check, optional=not required)

    def families(self) -> Iterator[Family]:
        """What `/metrics` tells of channels and messages."""
        uplink, listening, cluster = self.uplink, self.listening, self.cluster
        connected: Values = {("stdio",): 1.0 if uplink.on_stdio else 0.0} if uplink.address is not None else {}
        again: Values = {}
        for each in uplink.connectors:
            connected[each.target.channel,] = 0.0 if each.conversation is None else 1.0
            again[each.target.channel,] = float(max(0, each.reconnects))
        if cluster is not None:
            connected["nats",] = 1.0 if cluster.connection.connected else 0.0
            again["nats",] = float(cluster.connection.reconnects)
        if connected:
            doc = "Channels to the orchestrator and to NATS."
            yield Family("gauge", "pywatt_channel_connected", doc, ("channel",), connected)
            yield Family("counter", "pywatt_channel_reconnects", "Connections made anew.", ("channel",), again)
        if self.peers.all:
            there: Values = {(name,): 1.0 if way.conversations() else 0.0 for name, way in self.peers.all.items()}
            doc = "Modules of services.static that are connected."
            yield Family("gauge", "pywatt_peer_connected", doc, ("peer",), there)
        if listening.doors:
            peers: Values = {(): float(listening.peers)}
            yield Family("gauge", "pywatt_channel_peers", "Peers that are connected.", (), peers)
        if listening.doors or self.door is not None:
            refused: Values = {(): float(listening.refused + (self.door.refused if self.door is not None else 0))}
            yield Family("counter", "pywatt_channel_refused", "Peers that were not let in.", (), refused)
        if cluster is not None and cluster.queue is not None:
            dead: Values = {(): float(cluster.queue.dead)}
            yield Family("counter", "pywatt_messages_dead", "Kept messages that were put aside.", (), dead)
        counts: Values = {pair: float(count) for pair, count in tuple(self.inbox.counts.items())}
        yield Family(
            "counter", "pywatt_messages", "Messages, by direction and result.", ("direction", "result"), counts
        )


async def _nothing_rotates(rotation_id: str, keys: Sequence[str]) -> str:
    return "a peer rotates nothing"


class _Late:
    """What may be made with secrets, as a service of its own: entered once there are secrets."""

    name = "channels with secret tokens"

    def __init__(self, uplink: PeerClient, peers: StaticPeers, cluster: NatsMessaging | None) -> None:
        self._uplink = uplink
        self._peers = peers
        self._cluster = cluster

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._uplink.connecting(tasks, late=True))
            await stack.enter_async_context(self._peers.running(tasks))
            if self._cluster is not None:
                await stack.enter_async_context(self._cluster.connection.running(tasks))
            yield


def _connected(connector: Connector) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        if connector.conversation is None:
            raise ChannelError(connector.target.channel, str(connector.target), connector.error)

    return check
