"""Messages between modules, and events on topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pywatt_host.protocol.messages.members import Document, Extensions, read_optional_string, read_string
from pywatt_host.protocol.payload import Payload


@dataclass(frozen=True, slots=True)
class RouteToModule:
    """A message to another module, or the answer to one of its messages under the same request id (a UUID). A worker
    names in `channel` the only channel over which its supervisor may pass the message on; it goes to no other peer."""

    op: ClassVar[str] = "route_to_module"
    target_module_id: str
    target_endpoint: str
    request_id: str
    payload: Payload
    channel: str | None = None

    @classmethod
    def read(cls, document: Document) -> RouteToModule:
        return cls(
            read_string(document, "target_module_id"),
            read_optional_string(document, "target_endpoint") or "",
            read_string(document, "request_id"),
            Payload.read(document.get("payload")),
            read_optional_string(document, "channel"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "target_module_id": self.target_module_id,
            "target_endpoint": self.target_endpoint,
            "request_id": self.request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
            **({"channel": self.channel} if self.channel is not None else {}),
        }


@dataclass(frozen=True, slots=True)
class RoutedMessage:
    """A message from another module. The receiver answers it once, with `route_to_module` back to its source."""

    op: ClassVar[str] = "routed_module_message"
    source_module_id: str
    original_request_id: str
    payload: Payload
    target_endpoint: str | None = None

    @classmethod
    def read(cls, document: Document) -> RoutedMessage:
        return cls(
            read_string(document, "source_module_id"),
            read_string(document, "original_request_id"),
            Payload.read(document.get("payload")),
            read_optional_string(document, "target_endpoint"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {
            "op": self.op,
            "source_module_id": self.source_module_id,
            "original_request_id": self.original_request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }
        if self.target_endpoint is not None and "target_endpoint" in extensions:
            document["target_endpoint"] = self.target_endpoint
        return document


@dataclass(frozen=True, slots=True)
class RoutedResponse:
    """The answer to a message that this module has sent."""

    op: ClassVar[str] = "routed_module_response"
    source_module_id: str
    request_id: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> RoutedResponse:
        return cls(
            read_string(document, "source_module_id"),
            read_string(document, "request_id"),
            Payload.read(document.get("payload")),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "source_module_id": self.source_module_id,
            "request_id": self.request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }


@dataclass(frozen=True, slots=True)
class Publish:
    """Extension `events`: publishes an event to all subscribers of a topic. `channel` is as in RouteToModule."""

    op: ClassVar[str] = "publish"
    topic: str
    payload: Payload
    channel: str | None = None

    @classmethod
    def read(cls, document: Document) -> Publish:
        return cls(
            read_string(document, "topic"),
            Payload.read(document.get("payload")),
            read_optional_string(document, "channel"),
        )

    def wire(self, extensions: Extensions) -> Document:
        payload = self.payload.wire(inline="inline_payload" in extensions)
        channel = {"channel": self.channel} if self.channel is not None else {}
        return {"op": "publish", "topic": self.topic, "payload": payload, **channel}


@dataclass(frozen=True, slots=True)
class Event:
    """Extension `events`: an event that another module has published on a topic."""

    op: ClassVar[str] = "event"
    topic: str
    source_module_id: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> Event:
        return cls(
            read_string(document, "topic"),
            read_string(document, "source_module_id"),
            Payload.read(document.get("payload")),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "topic": self.topic,
            "source_module_id": self.source_module_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Extension `events`: asks for the events of a topic."""

    op: ClassVar[str] = "subscribe"
    topic: str

    @classmethod
    def read(cls, document: Document) -> Subscribe:
        return cls(read_string(document, "topic"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "subscribe", "topic": self.topic}


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Extension `events`: ends a subscription."""

    op: ClassVar[str] = "unsubscribe"
    topic: str

    @classmethod
    def read(cls, document: Document) -> Unsubscribe:
        return cls(read_string(document, "topic"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "unsubscribe", "topic": self.topic}
