"""What `/metrics` tells of a host beside the metrics of the application: requests, channels, messages, secrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from pywatt_host.observability.metrics import Family, Histogram, NoRequestMetrics, RequestMetrics

if TYPE_CHECKING:
    from pywatt_host.messaging.http_server import HttpMessages
    from pywatt_host.nats.channel import NatsMessaging
    from pywatt_host.peers.client import PeerClient
    from pywatt_host.peers.server import PeerServer
    from pywatt_host.peers.static import StaticPeers

Values: TypeAlias = dict[tuple[str, ...], float]


class HasFamilies(Protocol):
    """A part of the host that has metrics of its own."""

    def families(self) -> Iterator[Family | Histogram]: ...


class HostMetrics:
    """Registers the metrics of the host with Prometheus, once anything asks for metrics.

    `parts` have metrics of their own; `rotations` counts rotations of secrets by result, and `refusals` requests by
    scheme and reason (None: no scheme is declared); `running` says how many requests run.
    """

    def __init__(
        self,
        requests: RequestMetrics | NoRequestMetrics,
        running: Callable[[], int],
        parts: Iterable[HasFamilies],
        rotations: Counter[str],
        refusals: Mapping[tuple[str, str], int] | None,
    ) -> None:
        self._requests = requests
        self._running = running
        self._parts = tuple(parts)
        self._rotations = rotations
        self._refusals = refusals

    def register(self, registry: Any) -> None:
        """Register everything with a Prometheus registry."""
        exposition = import_module("pywatt_host.observability.exposition")
        if isinstance(self._requests, RequestMetrics):
            registry.register(exposition.RequestCollector(self._requests, self._running))
        registry.register(exposition.FamilyCollector(self.families))

    def families(self) -> Iterator[Family | Histogram]:
        """All metrics but those of requests, as they are now. Safe from any thread."""
        for part in self._parts:
            yield from part.families()
        if self._refusals is not None:
            refused: Values = {key: float(count) for key, count in self._refusals.items()}
            doc = "Requests refused for their credential, by scheme and reason."
            yield Family("counter", "pywatt_auth_failures", doc, ("scheme", "reason"), refused)
        rotations: Values = {(result,): float(self._rotations[result]) for result in ("success", "error")}
        yield Family("counter", "pywatt_secret_rotations", "Rotations of secrets, by result.", ("result",), rotations)


def channel_families(
    orchestrator: PeerClient,
    peers: StaticPeers,
    server: PeerServer,
    http: HttpMessages | None,
    nats: NatsMessaging | None,
    messages: Mapping[tuple[str, str], int],
) -> Iterator[Family]:
    """The metrics of channels; `messages` counts messages by direction and result."""
    connected: Values = {("stdio",): 1.0 if orchestrator.on_stdio else 0.0} if orchestrator.address is not None else {}
    reconnects: Values = {}
    for each in orchestrator.connectors:
        connected[each.target.channel,] = 0.0 if each.connection is None else 1.0
        reconnects[each.target.channel,] = float(max(0, each.reconnects))
    if nats is not None:
        connected["nats",] = 1.0 if nats.connection.connected else 0.0
        reconnects["nats",] = float(nats.connection.reconnects)
    if connected:
        doc = "Channels to the orchestrator and to NATS."
        yield Family("gauge", "pywatt_channel_connected", doc, ("channel",), connected)
        yield Family("counter", "pywatt_channel_reconnects", "Connections made anew.", ("channel",), reconnects)
    if peers.all:
        there: Values = {(name,): 1.0 if client.connections() else 0.0 for name, client in peers.all.items()}
        doc = "Modules of services.static that are connected."
        yield Family("gauge", "pywatt_peer_connected", doc, ("peer",), there)
    if server.listeners:
        count: Values = {(): float(server.peers)}
        yield Family("gauge", "pywatt_channel_peers", "Peers that are connected.", (), count)
    if server.listeners or http is not None:
        refused: Values = {(): float(server.refused + (http.refused if http is not None else 0))}
        yield Family("counter", "pywatt_channel_refused", "Peers that were not let in.", (), refused)
    if nats is not None and nats.queue is not None:
        dead: Values = {(): float(nats.queue.dead)}
        yield Family("counter", "pywatt_messages_dead", "Kept messages that were put aside.", (), dead)
    counts: Values = {pair: float(number) for pair, number in tuple(messages.items())}
    yield Family("counter", "pywatt_messages", "Messages, by direction and result.", ("direction", "result"), counts)
