"""Messages that arrive over a connection to a peer: who sent each of them, and how it is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from pywatt_host.messaging.incoming import Incoming, reply_payload
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import RoutedMessage, RoutedResponse, RouteToModule, WorkerMessage
from pywatt_host.protocol.payload import Payload


@dataclass(slots=True)
class _ConnectionMessage:
    """An incoming message. `routed`: it arrived as a `routed_module_message`, as orchestrators send them and modules to
    those that connect to them. `forwarded`: by an orchestrator, which knows where it is from."""

    source: str
    request_id: str
    payload: Payload
    connection: PeerConnection
    routed: bool
    forwarded: bool = False
    attempt: ClassVar[int] = 1
    kept: ClassVar[bool] = False

    @property
    def channel(self) -> str:
        return self.connection.channel

    @property
    def vouched_by(self) -> str:
        return "orchestrator" if self.forwarded else self.connection.vouched_by

    def answer(self, module_id: str, content: object) -> None:
        payload = reply_payload(content)
        if self.routed:
            self.connection.session.send(RouteToModule(self.source, "", self.request_id, payload))
        else:
            self.connection.session.send(RoutedResponse(module_id, self.request_id, payload))


@dataclass(slots=True)
class _PassedOnMessage:
    """A message that the supervisor of this worker passes on: who sent it, and how, is what the supervisor says."""

    source: str
    request_id: str
    payload: Payload
    connection: PeerConnection
    channel: str
    vouched_by: str
    attempt: ClassVar[int] = 1
    kept: ClassVar[bool] = False

    def answer(self, module_id: str, content: object) -> None:
        self.connection.session.send(RouteToModule(self.source, "", self.request_id, reply_payload(content)))


class IncomingMessages:
    """Passes the messages of peers to `take`, such as that of an inbox. There is one method for each kind of peer: what
    a message says about its source counts only where an orchestrator forwards it."""

    def __init__(self, take: Callable[[Incoming], None]) -> None:
        self._take = take

    def from_orchestrator(self, message: RoutedMessage, connection: PeerConnection) -> None:
        """A message that the orchestrator forwards; its source is what the message says."""
        source, request_id = message.source_module_id, message.original_request_id
        self._take(_ConnectionMessage(source, request_id, message.payload, connection, True, True))

    def from_connected_peer(self, message: RoutedMessage, connection: PeerConnection) -> None:
        """A message from a peer that this module connects to; its source is that peer."""
        source, request_id = connection.module_id, message.original_request_id
        self._take(_ConnectionMessage(source, request_id, message.payload, connection, True))

    def from_client(self, message: RouteToModule, connection: PeerConnection) -> None:
        """A message from a peer that has connected to this module; its source is that peer."""
        source, request_id = connection.module_id, message.request_id
        self._take(_ConnectionMessage(source, request_id, message.payload, connection, False))

    def from_supervisor(self, message: WorkerMessage, connection: PeerConnection) -> None:
        """A message that the supervisor of this worker passes on; its source is what the message says."""
        self._take(
            _PassedOnMessage(
                message.source_module_id,
                message.request_id,
                message.payload,
                connection,
                message.channel,
                message.vouched_by,
            )
        )
