"""Messages that arrive over a connection to a peer: who sent each of them, and how it is answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import reply_payload
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.messages import RoutedMessage, RoutedResponse, RouteToModule
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


class IncomingMessages:
    """Puts the messages of peers into an inbox. There is one method for each kind of peer: what a message says about
    its source counts only where an orchestrator forwards it."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def from_orchestrator(self, message: RoutedMessage, connection: PeerConnection) -> None:
        """A message that the orchestrator forwards; its source is what the message says."""
        source, request_id = message.source_module_id, message.original_request_id
        self._inbox.take(_ConnectionMessage(source, request_id, message.payload, connection, True, True))

    def from_connected_peer(self, message: RoutedMessage, connection: PeerConnection) -> None:
        """A message from a peer that this module connects to; its source is that peer."""
        source, request_id = connection.module_id, message.original_request_id
        self._inbox.take(_ConnectionMessage(source, request_id, message.payload, connection, True))

    def from_client(self, message: RouteToModule, connection: PeerConnection) -> None:
        """A message from a peer that has connected to this module; its source is that peer."""
        source, request_id = connection.module_id, message.request_id
        self._inbox.take(_ConnectionMessage(source, request_id, message.payload, connection, False))
