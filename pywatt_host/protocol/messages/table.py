"""All messages by their `op`: what a JSON document is.

`message_of` takes every shape that PROTOCOL.md tells to accept, and raises ProtocolError naming the member that is
wrong. `wire` of a message gives exactly the shapes of its tables, plus what both sides agreed on (`extensions`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.messages.http import HttpRequest, HttpResponse, PortRequest, PortResponse
from pywatt_host.protocol.messages.lifecycle import (
    Announce,
    Draining,
    Heartbeat,
    HeartbeatAck,
    Identify,
    Init,
    Shutdown,
)
from pywatt_host.protocol.messages.members import Document, Extensions, read_optional_string
from pywatt_host.protocol.messages.routing import (
    Event,
    Publish,
    RoutedMessage,
    RoutedResponse,
    RouteToModule,
    Subscribe,
    Unsubscribe,
)
from pywatt_host.protocol.messages.secrets import GetSecret, Rotated, RotationAck, SecretValue
from pywatt_host.protocol.messages.services import Deregister, Discover, Discovered, Register, Registered
from pywatt_host.protocol.messages.stores import (
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
)
from pywatt_host.protocol.messages.workers import (
    GetHostPath,
    GetSnapshot,
    HostPathAnswer,
    Snapshot,
    WorkerAccept,
    WorkerEvent,
    WorkerFailed,
    WorkerMessage,
    WorkerRetire,
    WorkerSpans,
    WorkerTls,
)


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message with an unknown `op`. The receiver logs it once and ignores it."""

    op: str


@dataclass(frozen=True, slots=True)
class Error:
    """Extension `error`: why a request could not be answered. `code` is for programs, `message` for people."""

    op: ClassVar[str] = "error"
    in_reply_to: str
    code: str
    message: str
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Error:
        return cls(
            read_optional_string(document, "in_reply_to") or "",
            read_optional_string(document, "code") or "error",
            read_optional_string(document, "message") or "",
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "error", "in_reply_to": self.in_reply_to, "code": self.code, "message": self.message}
        if self.request_id is not None:
            document["request_id"] = self.request_id
        return document


ToModule: TypeAlias = (
    Init
    | SecretValue
    | Rotated
    | Shutdown
    | Heartbeat
    | Registered
    | Discovered
    | ServiceResponse
    | ServiceOperationResult
    | HttpRequest
    | PortResponse
    | RoutedMessage
    | RoutedResponse
    | Event
    | WorkerAccept
    | WorkerRetire
    | WorkerTls
    | WorkerMessage
    | WorkerEvent
    | GetSnapshot
    | HostPathAnswer
)
ToOrchestrator: TypeAlias = (
    Announce
    | Identify
    | GetSecret
    | RotationAck
    | Register
    | Deregister
    | Discover
    | ServiceRequest
    | ServiceOperation
    | HttpResponse
    | PortRequest
    | RouteToModule
    | HeartbeatAck
    | Draining
    | Publish
    | Subscribe
    | Unsubscribe
    | WorkerFailed
    | Snapshot
    | WorkerSpans
    | GetHostPath
)
Message: TypeAlias = ToModule | ToOrchestrator | Error
Received: TypeAlias = Message | Unknown

MESSAGES: tuple[type[Any], ...] = (
    Init, SecretValue, Rotated, Shutdown, Heartbeat, Registered, Discovered, ServiceResponse, ServiceOperationResult,
    HttpRequest, PortResponse, RoutedMessage, RoutedResponse, Event, Announce, Identify, GetSecret, RotationAck,
    Register, Deregister, Discover, ServiceRequest, ServiceOperation, HttpResponse, PortRequest, RouteToModule,
    HeartbeatAck, Draining, Publish, Subscribe, Unsubscribe, Error, WorkerAccept, WorkerRetire, WorkerTls, GetSnapshot,
    HostPathAnswer, WorkerFailed, Snapshot, GetHostPath, WorkerMessage, WorkerEvent,
    WorkerSpans,
)  # fmt: skip
_READERS: dict[str, Callable[[Document], Message]] = {message.op: message.read for message in MESSAGES}


def message_of(document: Any) -> Received:
    """The message that a JSON document holds: with an `op`, in a Message envelope, or in one of the old shapes that
    have no `op` (announce, init, `{"identify": id}`). Raises ProtocolError."""
    if document.__class__ is not dict:
        raise ProtocolError("message", "a message is not a JSON object")
    if "op" not in document and document.get("content").__class__ is dict:
        document = document["content"]
    op = document.get("op")
    if op is None:
        op = _op_of(document)
    if op.__class__ is not str:
        raise ProtocolError("message", "op is not a string")
    reader = _READERS.get(op)
    if reader is None:
        return Unknown(op)
    try:
        return reader(document)
    except ProtocolError as error:
        raise ProtocolError(error.code, f"{op}: {error.message}") from None


def _op_of(document: Document) -> str:
    if "identify" in document:
        return "identify"
    if "orchestrator_api" in document and "module_id" in document:
        return "init"
    if "listen" in document and "endpoints" in document:
        return "announce"
    raise ProtocolError("message", "a message has no op")
