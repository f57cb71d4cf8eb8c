"""The channels of a host, made from the manifest's `channels` and `services`.

Loaded only where there is any channel; elsewhere `build/none.py` stands in for it.
"""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from pywatt_host.build.host_metrics import channel_families
from pywatt_host.build.http_peers import http_peers
from pywatt_host.channels.stdio import Handshake
from pywatt_host.channels.trace import TraceFile
from pywatt_host.discovery.discovery import Discovery
from pywatt_host.exceptions import ChannelError
from pywatt_host.manifest.model import Manifest
from pywatt_host.messaging.context import Vouch
from pywatt_host.messaging.http_client import HttpTransport, rendered
from pywatt_host.messaging.http_requests import ChannelRequests
from pywatt_host.messaging.http_server import HttpMessages
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import EventHandler, Incoming
from pywatt_host.messaging.messages import CallPolicy, Messages
from pywatt_host.messaging.subscriptions import Subscriptions
from pywatt_host.messaging.transport import Transport
from pywatt_host.net.limits import Limits
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.observability.spans import NO_TRACER, AnyTracer
from pywatt_host.peers.client import PassedOn, PeerClient, PeerHandlers, WorkerHandlers
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.peers.incoming import IncomingMessages
from pywatt_host.peers.reconnecting import Connector
from pywatt_host.peers.remote_stores import Proxying
from pywatt_host.peers.server import PeerServer
from pywatt_host.peers.static import StaticPeers, static_modules
from pywatt_host.peers.targets import bind_listeners, connectors
from pywatt_host.peers.token import ChannelToken, TokenDependant
from pywatt_host.protocol.messages import AnnouncedEndpoint, Event, GetSecret, Publish, SecretValue, WorkerEvent
from pywatt_host.protocol.payload import Payload
from pywatt_host.secrets import Masker
from pywatt_host.service import Dependant, Service
from pywatt_host.types import ASGIApp

if TYPE_CHECKING:
    from pywatt_host.nats.channel import NatsMessaging

_SECRET_TIMEOUT = 10.0  # seconds for the orchestrator to answer a request for a secret
_NATS_PORT = 4222  # where the URL of a server has none

# Rotates secrets because the orchestrator says so: (rotation id, names) -> why it was refused, empty where it was not.
Rotate: TypeAlias = Callable[[str, Sequence[str]], Awaitable[str]]


class HostChannels:
    """All channels of a host: to the orchestrator, to and from other modules, HTTP and NATS, and the messages on them.

    As a service it connects the channels to the orchestrator that need no secret; `connections`, `answering` and
    `server` are the others, see `build/services.py`.
    """

    name = "channels"

    def __init__(
        self,
        manifest: Manifest,
        handshake: Handshake | None,
        *,
        app: Callable[[], ASGIApp | None],
        health: Callable[[], Mapping[str, Any]],
        stop: Callable[[str], None],
        orchestrator_lost: Callable[[str], None],
        secret_values: Callable[[], Mapping[str, str]],
        masker: Masker,
        trace: Path | None,
        policy: Callable[[str], CallPolicy | None] = lambda target: None,
        private_server: Callable[[str, str], Awaitable[str]] | None = None,
        vouch: Vouch | None = None,
        worker: WorkerHandlers | None = None,
        take: Callable[[Incoming], None] | None = None,
        host_limits: Limits | None = None,
        tracer: AnyTracer = NO_TRACER,
    ) -> None:
        """`app` gives the edge once it has started, for HTTP requests that come over a channel. `health` is the report
        that heartbeats are answered with. `stop` and `orchestrator_lost` are called when the orchestrator stops the
        module or is gone. `trace` is the file to which everything sent and received is written, masked. `policy` gives
        timeouts and retries for messages to a target, `private_server` the URL of a NATS server for development.
        `vouch` verifies credentials that come with messages. `worker` answers the supervisor, where this host is one of
        its workers. `take` takes incoming messages in place of handlers of this process. `host_limits` makes the limits
        on messages that arrive; by default they hold for this process. `tracer` makes the spans of handlers.

        Raises ChannelError for channels that cannot be made, OSError for a trace that cannot be written.
        """
        channels, limits, module_id = manifest.channels, manifest.channels.limits, manifest.module_id
        init = handshake.init if handshake is not None else None
        if init is not None and init.auth_token is not None:
            masker.add("init.auth_token", init.auth_token)
        self._manifest = manifest
        self._trace = trace_file = TraceFile(trace, masker.mask) if trace is not None else None
        self._health = health
        self._rotate: Rotate | None = None
        self._take_event: EventHandler | None = None
        self._worker = worker
        self.token = ChannelToken(manifest, init, secret_values)
        self.inbox = Inbox(module_id, limits.messages, limits.rate, vouch, masker.mask, host_limits, tracer)
        self.incoming = IncomingMessages(take or self.inbox.take)
        self.topics = Subscriptions(self.inbox.counts, tracer)
        self._requests = ChannelRequests(
            app, body=manifest.server.limits.body, frame=limits.frame, timeout=manifest.server.timeouts.request
        )
        self.orchestrator = PeerClient(
            module_id,
            connectors(manifest, init, self.token),
            handshake=handshake,
            frame_limit=limits.frame,
            handshake_timeout=limits.handshake,
            heartbeats_missed=limits.heartbeat_missed,
            trace=trace_file,
            handlers=self._orchestrator_handlers(stop, orchestrator_lost),
            topics=lambda: self.topics.all,
        )
        self.stores = Proxying(self.orchestrator)
        self.peers = StaticPeers(
            manifest, secret_values, self._peer_handlers(), trace_file, topics=lambda: self.topics.all
        )
        self.server = PeerServer(
            module_id,
            frame_limit=limits.frame,
            handshake_timeout=limits.handshake,
            message=self.incoming.from_client,
            health=self._states,
            event=self._from_client,
            trace=trace_file,
        )
        self._http_client = HttpTransport(http_peers(manifest, secret_values))
        self.http_server: HttpMessages | None = None
        if channels.http is not None:
            offered = init.auth_token if init is not None else None
            token = channels.http.token if channels.http.token is not None else offered
            self.http_server = HttpMessages(
                self.inbox, lambda: rendered(token, secret_values()), limits.frame, self._event, host_limits
            )
        self.nats: NatsMessaging | None = None
        if channels.nats is not None:
            self.nats = import_module("pywatt_host.nats.channel").NatsMessaging(
                channels.nats,
                self.inbox,
                lambda: self.topics.all,
                self._event,
                secret_values=secret_values,
                resolve=manifest.resolve,
                timeout=limits.handshake,
                healthy=self._is_healthy,
                private=private_server,
            )
        self.messages = Messages(self.inbox, self.topics, self._transports(), policy)
        self.discovery = Discovery(
            module_id,
            self.orchestrator,
            self.nats.registry if self.nats is not None else None,
            manifest.services.static,
            offers=manifest.services.register_,
            advertise=manifest.services.advertise,
            towards=self._towards,
            healthy=self._is_healthy,
        )
        for tell in (
            self.orchestrator.subscribe,
            self.peers.subscribe,
            *([self.nats.messages.subscribe] if self.nats is not None else []),
        ):
            self.topics.on_new_topic(tell)
        # An orchestrator that is only reached with a token made of secrets cannot be asked for those secrets.
        early = handshake is not None or any(not connector.needs_secrets for connector in self.orchestrator.connectors)
        self.fetch = self._fetch if early else None

    def _transports(self) -> list[Transport]:
        """The ways that messages to other modules may take."""
        found: list[Transport] = []
        if static_modules(self._manifest):
            found += [self.peers, self._http_client]
        channels = self._manifest.channels
        if any(each is not None and each.listen is not None for each in (channels.ipc, channels.tcp)):
            found.append(self.server)
        if self.orchestrator.configured:
            found.append(self.orchestrator)
        if self.nats is not None:
            found.append(self.nats.messages)
        return found

    def _is_healthy(self) -> bool:
        return self._health().get("status") != "unhealthy"

    def _towards(self) -> list[tuple[str, int]]:
        """The hosts and ports that this module is connected to. It advertises its own address on the way there."""
        nats = self._manifest.channels.nats
        urls = [*(nats.servers if nats is not None else ()), *filter(None, (self.orchestrator.address,))]
        found = [urlsplit(url) for url in urls]
        return [(url.hostname, url.port or _NATS_PORT) for url in found if url.hostname]

    # What arrives ---------------------------------------------------------------------------------------------------

    def on_rotation(self, rotate: Rotate) -> None:
        """Let `rotate` do what the orchestrator says about rotated secrets. It is registered later, since it fetches
        secrets over these channels."""
        self._rotate = rotate

    def on_event(self, take: EventHandler) -> None:
        """Let `take` have each event that arrives, in place of the subscriptions of this process."""
        self._take_event = take

    async def _rotated(self, rotation_id: str, names: Sequence[str]) -> str:
        assert self._rotate is not None
        return await self._rotate(rotation_id, names)

    def _orchestrator_handlers(self, stop: Callable[[str], None], lost: Callable[[str], None]) -> PeerHandlers:
        """What the orchestrator may ask of this module."""
        return PeerHandlers(
            health=self._health,
            http=self._requests,
            message=self.incoming.from_orchestrator,
            rotated=self._rotated,
            shutdown=stop,
            worker=self._worker,
            passed_on=PassedOn(self.incoming.from_supervisor, self._from_supervisor) if self._worker else None,
            lost=lost,
            event=self._from_orchestrator,
        )

    def _peer_handlers(self) -> PeerHandlers:
        """What a module that this one is connected to may ask of it: to take messages and events."""
        return PeerHandlers(
            health=self._states, message=self.incoming.from_connected_peer, event=self._from_connected_peer
        )

    def _states(self) -> dict[str, Any]:
        """The health report for other modules: names and states of checks. What a check raised is for the
        orchestrator and the log of this module."""
        report = self._health()
        checks = {name: {"status": check["status"]} for name, check in report.get("checks", {}).items()}
        return {**report, "checks": checks}

    def _from_orchestrator(self, event: Event, connection: PeerConnection) -> None:
        """An event that the orchestrator passes on."""
        self._event(event.topic, event.source_module_id, event.payload, connection.channel, "orchestrator")

    def _from_supervisor(self, event: WorkerEvent, connection: PeerConnection) -> None:
        """An event that the supervisor of this worker passes on."""
        self._event(event.topic, event.source_module_id, event.payload, event.channel, event.vouched_by)

    def _from_connected_peer(self, event: Event, connection: PeerConnection) -> None:
        """An event of a module that this one is connected to."""
        self._event(event.topic, connection.module_id, event.payload, connection.channel, connection.vouched_by)

    def _from_client(self, event: Publish, connection: PeerConnection) -> None:
        """An event of a module that is connected to this one."""
        self._event(event.topic, connection.module_id, event.payload, connection.channel, connection.vouched_by)

    def _event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        if self._take_event is not None:
            self._take_event(topic, source, payload, channel, vouched_by)
        else:
            self.messages.event(topic, source, payload, channel, vouched_by)

    async def _fetch(self, name: str) -> str:
        """A secret of the orchestrator. Raises MessagingError, `unknown_secret` where it has none of that name."""
        answer: SecretValue = await self.orchestrator.request(GetSecret(name), _SECRET_TIMEOUT)
        return answer.value

    # As services ----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        try:
            async with self.orchestrator.running(tasks):
                yield
        finally:
            if self._trace is not None:
                self._trace.close()

    @property
    def connections(self) -> Sequence[Service]:
        """Connections that may need secrets, which have to be there first."""
        found: list[Service] = [_SecretConnections(self.orchestrator), self.peers]
        return [*found, self.nats.connection] if self.nats is not None else found

    @property
    def answering(self) -> Sequence[Service]:
        """What handles requests and messages. At the stop, nothing new is let in first; then what had arrived is
        handled; then what was sent in the course of that gets its answers."""
        inbox = self.nats.answering(self.inbox) if self.nats is not None else (self.inbox,)
        return [self._requests, self._http_client, self.messages, self.discovery, self.topics, *inbox]

    def bind(self) -> None:
        """Bind the sockets where other modules connect. Raises BindError and ChannelError; nothing stays bound then."""
        bind_listeners(self._manifest, self.server, self.token)

    def close(self) -> None:
        """Close those sockets, also where they were never served."""
        self.server.close()

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        """Tell the orchestrator and other modules where this module serves which endpoints: `http://IP:port`,
        `https://IP:port` or `unix:PATH`; path templates with methods and the names of the schemes that guard them."""
        listen = address.removeprefix("http://").removeprefix("unix:")
        announced = [AnnouncedEndpoint(path, methods, auth or None) for path, methods, auth in endpoints]
        self.orchestrator.announce(listen, announced)
        self.discovery.announce(address)

    def hand_spans(self, encoded: bytes, spans: int, dropped: int) -> bool:
        """Give spans to the supervisor of this worker, see `PeerClient.hand_spans`."""
        return self.orchestrator.hand_spans(encoded, spans, dropped)

    def draining(self) -> None:
        """Tell the orchestrator and other modules that this module is about to stop."""
        self.orchestrator.draining()
        if self.nats is not None:
            self.nats.withdraw()

    # Secrets, health and metrics ------------------------------------------------------------------------------------

    def dependants(self) -> list[Dependant]:
        """The channels that use secrets, and follow their rotation."""
        found: list[Dependant] = [TokenDependant(self.orchestrator.reconnector, self.token)] if self.token.names else []
        if self.nats is not None and self.nats.dependant.names:
            found.append(self.nats.dependant)
        return found

    def add_checks(self, checks: Checks) -> None:
        """One check for each channel to the orchestrator and to NATS. A channel that is not required only degrades the
        health."""
        for connector in self.orchestrator.connectors:
            checks.add(f"channel:{connector.target.channel}", _connected(connector), optional=not connector.required)
        if self.nats is not None:
            required = self.nats.connection.settings.required
            checks.add("channel:nats", self.nats.connection.check, optional=not required)

    def families(self) -> Iterator[Family]:
        """The metrics of channels and messages."""
        return channel_families(
            self.orchestrator, self.peers, self.server, self.http_server, self.nats, self.inbox.counts
        )


class _SecretConnections:
    """The channels to the orchestrator whose token is made of secrets."""

    name = "channels with secret tokens"

    def __init__(self, orchestrator: PeerClient) -> None:
        self._orchestrator = orchestrator

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with self._orchestrator.connecting(tasks, with_secrets=True):
            yield


def _connected(connector: Connector) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        if connector.connection is None:
            raise ChannelError(connector.target.channel, str(connector.target), connector.error)

    return check
