"""What a supervisor and its workers say to each other, beside what any orchestrator and its modules say.

These operations exist on the connection between the two only: no other peer is told about them, and a host that is not
a worker ignores them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_boolean,
    read_integer,
    read_optional_integer,
    read_optional_string,
    read_string,
    read_string_map,
    with_request_id,
    wrong_member,
)
from pywatt_host.protocol.payload import Payload

_MOST_SPANS = 2**53  # which every reader of JSON knows exactly


@dataclass(frozen=True, slots=True)
class WorkerAccept:
    """Tells a worker to accept connections from now on."""

    op: ClassVar[str] = "worker_accept"

    @classmethod
    def read(cls, document: Document) -> WorkerAccept:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op}


@dataclass(frozen=True, slots=True)
class WorkerRetire:
    """Tells a worker to drain and to end. Its successor accepts from the same sockets already."""

    op: ClassVar[str] = "worker_retire"
    why: str

    @classmethod
    def read(cls, document: Document) -> WorkerRetire:
        return cls(read_string(document, "why"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "why": self.why}


@dataclass(frozen=True, slots=True)
class WorkerTls:
    """Gives a worker what the listeners of a TLS section use from now on: the section's key in the manifest, the
    certificate chain, its key and the CA certificates of clients (all PEM), and what is demanded of clients."""

    op: ClassVar[str] = "worker_tls"
    section: str
    chain: str = field(repr=False)
    private_key: str = field(repr=False)
    client_ca: str | None
    demands: str
    min_version: str

    @classmethod
    def read(cls, document: Document) -> WorkerTls:
        return cls(
            read_string(document, "section"),
            read_string(document, "chain"),
            read_string(document, "private_key"),
            read_optional_string(document, "client_ca"),
            read_string(document, "demands"),
            read_string(document, "min_version"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "section": self.section,
            "chain": self.chain,
            "private_key": self.private_key,
            "client_ca": self.client_ca,
            "demands": self.demands,
            "min_version": self.min_version,
        }


@dataclass(frozen=True, slots=True)
class WorkerMessage:
    """A message from another module that the supervisor passes on to one worker, with the channel on which it came and
    who vouches for its source. The worker answers it once, with `route_to_module` under the same request id."""

    op: ClassVar[str] = "worker_message"
    source_module_id: str
    request_id: str
    payload: Payload
    channel: str
    vouched_by: str = ""

    @classmethod
    def read(cls, document: Document) -> WorkerMessage:
        return cls(
            read_string(document, "source_module_id"),
            read_string(document, "request_id"),
            Payload.read(document.get("payload")),
            read_string(document, "channel"),
            read_optional_string(document, "vouched_by") or "",
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "source_module_id": self.source_module_id,
            "request_id": self.request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
            "channel": self.channel,
            "vouched_by": self.vouched_by,
        }


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """An event that the supervisor passes on to a worker which has subscribed to its topic."""

    op: ClassVar[str] = "worker_event"
    topic: str
    source_module_id: str
    payload: Payload
    channel: str
    vouched_by: str = ""

    @classmethod
    def read(cls, document: Document) -> WorkerEvent:
        return cls(
            read_string(document, "topic"),
            read_string(document, "source_module_id"),
            Payload.read(document.get("payload")),
            read_string(document, "channel"),
            read_optional_string(document, "vouched_by") or "",
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "topic": self.topic,
            "source_module_id": self.source_module_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
            "channel": self.channel,
            "vouched_by": self.vouched_by,
        }


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """A worker tells why it cannot start, before it ends. `trace` is the application's own traceback."""

    op: ClassVar[str] = "worker_failed"
    exit_code: int
    message: str
    trace: str = ""

    @classmethod
    def read(cls, document: Document) -> WorkerFailed:
        return cls(
            read_integer(document, "exit_code", 0, 255),
            read_string(document, "message"),
            read_optional_string(document, "trace") or "",
        )

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "exit_code": self.exit_code, "message": self.message, "trace": self.trace}


@dataclass(frozen=True, slots=True)
class GetSnapshot:
    """Asks a worker for its metrics."""

    op: ClassVar[str] = "get_snapshot"
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> GetSnapshot:
        return cls(read_optional_string(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        return with_request_id({"op": self.op}, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The answer to `get_snapshot`, see `observability.snapshots`; a worker that drains also sends it by itself."""

    op: ClassVar[str] = "snapshot"
    families: list[Any] = field(repr=False)
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Snapshot:
        families = document.get("families")
        if families.__class__ is not list:
            raise wrong_member("families", "a list")
        return cls(families, read_optional_string(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        return with_request_id({"op": self.op, "families": self.families}, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class WorkerSpans:
    """A worker hands its spans to the supervisor: a piece of an encoded ExportTraceServiceRequest (OTLP) with `spans`
    spans. `dropped` is how many it had to drop since the last piece. On the wire the piece is in Base64."""

    op: ClassVar[str] = "worker_spans"
    encoded: bytes = field(repr=False)
    spans: int
    dropped: int = 0

    @classmethod
    def read(cls, document: Document) -> WorkerSpans:
        try:
            encoded = b64decode(read_string(document, "encoded"), validate=True)
        except ValueError:
            raise wrong_member("encoded", "Base64") from None
        return cls(
            encoded,
            read_integer(document, "spans", 0, _MOST_SPANS),
            read_optional_integer(document, "dropped", 0, _MOST_SPANS) or 0,
        )

    def wire(self, extensions: Extensions) -> Document:
        encoded = b64encode(self.encoded).decode()
        return {"op": self.op, "encoded": encoded, "spans": self.spans, "dropped": self.dropped}


@dataclass(frozen=True, slots=True)
class GetHostPath:
    """A worker asks for the supervisor's answer to one of the host's own paths. `accept` is the Accept header of the
    request. `details` tells whether the health report may say why checks fail (None: as the supervisor decides)."""

    op: ClassVar[str] = "get_host_path"
    path: str
    accept: str = ""
    details: bool | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> GetHostPath:
        details = None if document.get("details") is None else read_boolean(document, "details")
        return cls(
            read_string(document, "path"),
            read_optional_string(document, "accept") or "",
            details,
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "path": self.path, "accept": self.accept, "details": self.details}
        return with_request_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class HostPathAnswer:
    """The answer to `get_host_path`: an HTTP response whose body is text, `content`."""

    op: ClassVar[str] = "host_path"
    status: int
    headers: Mapping[str, str]
    content: str = field(repr=False)
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> HostPathAnswer:
        return cls(
            read_integer(document, "status", 100, 599),
            read_string_map(document, "headers"),
            read_string(document, "content"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "status": self.status, "headers": dict(self.headers), "content": self.content}
        return with_request_id(document, self.request_id, extensions)
