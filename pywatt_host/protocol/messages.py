"""Every operation of the protocol in both directions, as frozen messages.

`read` takes every shape that PROTOCOL.md tells to accept and raises ProtocolError naming the member that is wrong;
`wire` gives exactly the shapes of its tables, plus what both sides agreed on (`extensions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.payload import Payload, octets_of

EXTENSIONS = frozenset(
    {"request_id", "error", "inline_payload", "target_endpoint", "health", "drain", "events", "deregister"}
)

Extensions: TypeAlias = Set[str]
Document: TypeAlias = dict[str, Any]

_SERVICE_TYPES = {"database": "Database", "cache": "Cache", "jwt": "Jwt"}


# Reading members ----------------------------------------------------------------------------------------------------


def _wrong(member: str, wanted: str) -> ProtocolError:
    return ProtocolError("message", f"{member} is not {wanted}")


def _text(document: Document, member: str) -> str:
    value = document.get(member)
    if value.__class__ is not str:
        raise _wrong(member, "a text")
    return value


def _maybe_text(document: Document, member: str) -> str | None:
    value = document.get(member)
    if value is not None and value.__class__ is not str:
        raise _wrong(member, "a text")
    return value


def _flag(document: Document, member: str, default: bool = False) -> bool:
    value = document.get(member)
    if value is None:
        return default
    if value.__class__ is not bool:
        raise _wrong(member, "true or false")
    return value


def _number(document: Document, member: str, low: int, high: int) -> int:
    value = document.get(member)
    if value.__class__ is not int or not low <= value <= high:
        raise _wrong(member, f"a number from {low} to {high}")
    return value


def _maybe_number(document: Document, member: str, low: int, high: int) -> int | None:
    return None if document.get(member) is None else _number(document, member, low, high)


def _texts(document: Document, member: str) -> tuple[str, ...]:
    value = document.get(member)
    if value is None:
        return ()
    if value.__class__ is not list or any(item.__class__ is not str for item in value):
        raise _wrong(member, "a list of texts")
    return tuple(value)


def _mapping(document: Document, member: str) -> dict[str, str]:
    value = document.get(member)
    if value is None:
        return {}
    if value.__class__ is not dict or any(item.__class__ is not str for item in value.values()):
        raise _wrong(member, "an object of texts")
    return dict(value)


def _body(document: Document) -> bytes | None:
    value = document.get("body")
    return None if value is None else octets_of(value, "body")


def _object(document: Document, member: str) -> Document | None:
    value = document.get(member)
    if value is not None and value.__class__ is not dict:
        raise _wrong(member, "an object")
    return value


def service_type_of(text: str) -> str:
    """`database`, `cache` and `jwt` in any case are the wire's own types; every other text is a name of its own."""
    return _SERVICE_TYPES.get(text.lower(), text)


def _service_type(document: Document) -> str:
    value = document.get("service_type")
    if value.__class__ is dict and len(value) == 1 and value.get("Custom").__class__ is str:
        return str(value["Custom"])
    if value.__class__ is str:
        return service_type_of(value)
    raise _wrong("service_type", 'Database, Cache, Jwt or {"Custom": name}')


def _wire_service_type(text: str) -> str | dict[str, str]:
    return text if text in _SERVICE_TYPES.values() else {"Custom": text}


def _address(value: Any, member: str) -> str:
    """`IP:port` or an absolute path, from `{"Unix": path}`, `{"Tcp": address}` and plain texts."""
    if value.__class__ is dict and len(value) == 1:
        ((kind, value),) = value.items()
        if kind not in ("Unix", "Tcp"):
            raise _wrong(member, "an address")
    if value.__class__ is not str or not value:
        raise _wrong(member, "an address")
    return str(value)


def _with_id(document: Document, request_id: str | None, extensions: Extensions) -> Document:
    if request_id is not None and "request_id" in extensions:
        document["request_id"] = request_id
    return document


# Both directions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unknown:
    """An operation that we do not know; logged once and ignored."""

    op: str


@dataclass(frozen=True, slots=True)
class Error:
    """Extension `error`: a request cannot be answered. `code` is for programs, `message` for people."""

    op: ClassVar[str] = "error"
    in_reply_to: str
    code: str
    message: str
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Error:
        return cls(
            _maybe_text(document, "in_reply_to") or "",
            _maybe_text(document, "code") or "error",
            _maybe_text(document, "message") or "",
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "error", "in_reply_to": self.in_reply_to, "code": self.code, "message": self.message}
        if self.request_id is not None:
            document["request_id"] = self.request_id
        return document


# Orchestrator to module ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TcpChannelOffer:
    """Where the orchestrator takes frames over TCP."""

    address: str
    tls_enabled: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True)
class IpcChannelOffer:
    """Where the orchestrator takes frames over a Unix socket."""

    socket_path: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Init:
    """The handshake's first line. `listen` is `IP:port` (port 0: choose one) or the path of a Unix socket. `log_level`
    is taken from peers that send it, and never sent."""

    op: ClassVar[str] = "init"
    orchestrator_api: str
    module_id: str
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    listen: str | None = None
    tcp_channel: TcpChannelOffer | None = None
    ipc_channel: IpcChannelOffer | None = None
    auth_token: str | None = field(default=None, repr=False)
    security_level: str | None = None
    log_level: str | None = None
    extensions: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Document) -> Init:
        listen = document.get("listen")
        return cls(
            _maybe_text(document, "orchestrator_api") or "",
            _text(document, "module_id"),
            _mapping(document, "env"),
            None if listen is None else _address(listen, "listen"),
            _tcp_channel(_object(document, "tcp_channel")),
            _ipc_channel(_object(document, "ipc_channel")),
            _maybe_text(document, "auth_token"),
            _maybe_text(document, "security_level"),
            _maybe_text(document, "log_level") or ("debug" if document.get("debug_mode") is True else None),
            _texts(document, "extensions"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document: Document = {
            "op": "init",
            "orchestrator_api": self.orchestrator_api,
            "module_id": self.module_id,
            "env": dict(self.env),
            "listen": self.listen,
        }
        if self.tcp_channel is not None:
            offer = self.tcp_channel
            document["tcp_channel"] = {
                "address": offer.address,
                "tls_enabled": offer.tls_enabled,
                "required": offer.required,
            }
        if self.ipc_channel is not None:
            document["ipc_channel"] = {
                "socket_path": self.ipc_channel.socket_path,
                "required": self.ipc_channel.required,
            }
        for member in ("auth_token", "security_level"):
            if getattr(self, member) is not None:
                document[member] = getattr(self, member)
        if self.extensions:
            document["extensions"] = list(self.extensions)
        return document


def _tcp_channel(offer: Document | None) -> TcpChannelOffer | None:
    if offer is None:
        return None
    if offer.get("address") is None and offer.get("host") is not None:
        host = _text(offer, "host")
        address = f"{f'[{host}]' if ':' in host else host}:{_number(offer, 'port', 0, 65535)}"
    else:
        address = _text(offer, "address")
    return TcpChannelOffer(address, _flag(offer, "tls_enabled"), _flag(offer, "required"))


def _ipc_channel(offer: Document | None) -> IpcChannelOffer | None:
    return None if offer is None else IpcChannelOffer(_text(offer, "socket_path"), _flag(offer, "required"))


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The answer to `get_secret`."""

    op: ClassVar[str] = "secret"
    name: str
    value: str = field(repr=False)
    rotation_id: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> SecretValue:
        return cls(
            _text(document, "name"),
            _text(document, "value"),
            _maybe_text(document, "rotation_id"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "secret", "name": self.name, "value": self.value}
        if self.rotation_id is not None:
            document["rotation_id"] = self.rotation_id
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Rotated:
    """These secrets have new values; to be fetched again and acknowledged once."""

    op: ClassVar[str] = "rotated"
    keys: tuple[str, ...]
    rotation_id: str

    @classmethod
    def read(cls, document: Document) -> Rotated:
        return cls(_texts(document, "keys"), _text(document, "rotation_id"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "rotated", "keys": list(self.keys), "rotation_id": self.rotation_id}


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Drain and end."""

    op: ClassVar[str] = "shutdown"

    @classmethod
    def read(cls, document: Document) -> Shutdown:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "shutdown"}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Are you there?"""

    op: ClassVar[str] = "heartbeat"

    @classmethod
    def read(cls, document: Document) -> Heartbeat:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "heartbeat"}


@dataclass(frozen=True, slots=True)
class Registered:
    """The answer to `register_service_provider`."""

    op: ClassVar[str] = "register_service_provider_response"
    success: bool
    provider_id: str | None = None
    error: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Registered:
        return cls(
            _flag(document, "success"),
            _maybe_text(document, "provider_id"),
            _maybe_text(document, "error"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "success": self.success, "provider_id": self.provider_id, "error": self.error}
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Provider:
    """One provider of a service."""

    provider_id: str
    module_id: str
    service_type: str
    name: str
    version: str | None
    address: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_healthy: bool = True

    @classmethod
    def read(cls, document: Any) -> Provider:
        if document.__class__ is not dict:
            raise _wrong("providers", "a list of objects")
        return cls(
            _text(document, "provider_id"),
            _text(document, "module_id"),
            _service_type(document),
            _text(document, "name"),
            _maybe_text(document, "version"),
            _text(document, "address"),
            _mapping(document, "metadata"),
            _flag(document, "is_healthy", True),
        )

    def wire(self) -> Document:
        return {
            "provider_id": self.provider_id,
            "module_id": self.module_id,
            "service_type": _wire_service_type(self.service_type),
            "name": self.name,
            "version": self.version,
            "address": self.address,
            "metadata": dict(self.metadata),
            "is_healthy": self.is_healthy,
        }


@dataclass(frozen=True, slots=True)
class Discovered:
    """The answer to `discover_service_providers`."""

    op: ClassVar[str] = "discover_service_providers_response"
    success: bool
    providers: tuple[Provider, ...] = ()
    error: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Discovered:
        found = document.get("providers")
        if found is not None and found.__class__ is not list:
            raise _wrong("providers", "a list of objects")
        return cls(
            _flag(document, "success"),
            tuple(Provider.read(each) for each in found or ()),
            _maybe_text(document, "error"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        providers = [each.wire() for each in self.providers]
        document = {"op": self.op, "success": self.success, "providers": providers, "error": self.error}
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class ServiceResponse:
    """The answer to `service_request`."""

    op: ClassVar[str] = "service_response"
    id: str
    service_type: str
    success: bool
    error: str | None = None
    connection_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> ServiceResponse:
        return cls(
            _text(document, "id"),
            _service_type(document),
            _flag(document, "success"),
            _maybe_text(document, "error"),
            _maybe_text(document, "connection_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "id": self.id,
            "service_type": _wire_service_type(self.service_type),
            "success": self.success,
            "error": self.error,
            "connection_id": self.connection_id,
        }


@dataclass(frozen=True, slots=True)
class ServiceOperationResult:
    """The answer to `service_operation`."""

    op: ClassVar[str] = "service_operation_result"
    success: bool
    result: Any = field(default=None, repr=False)
    error: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> ServiceOperationResult:
        return cls(
            _flag(document, "success"),
            document.get("result"),
            _maybe_text(document, "error"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "success": self.success, "result": self.result, "error": self.error}
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request in one message. `uri` is the path with its query."""

    op: ClassVar[str] = "http_request"
    request_id: str
    method: str
    uri: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, document: Document) -> HttpRequest:
        return cls(
            _text(document, "request_id"),
            _text(document, "method"),
            _text(document, "uri"),
            _mapping(document, "headers"),
            _body(document),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "request_id": self.request_id,
            "method": self.method,
            "uri": self.uri,
            "headers": dict(self.headers),
            "body": None if self.body is None else list(self.body),
        }


@dataclass(frozen=True, slots=True)
class PortResponse:
    """The answer to `port_request`."""

    op: ClassVar[str] = "port_response"
    request_id: str
    success: bool
    port: int | None = None
    error_message: str | None = None

    @classmethod
    def read(cls, document: Document) -> PortResponse:
        return cls(
            _text(document, "request_id"),
            _flag(document, "success"),
            _maybe_number(document, "port", 0, 65535),
            _maybe_text(document, "error_message"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "request_id": self.request_id,
            "success": self.success,
            "port": self.port,
            "error_message": self.error_message,
        }


@dataclass(frozen=True, slots=True)
class RoutedMessage:
    """A message of another module. It is answered once: by `route_to_module` back to its source."""

    op: ClassVar[str] = "routed_module_message"
    source_module_id: str
    original_request_id: str
    payload: Payload
    target_endpoint: str | None = None

    @classmethod
    def read(cls, document: Document) -> RoutedMessage:
        return cls(
            _text(document, "source_module_id"),
            _text(document, "original_request_id"),
            Payload.read(document.get("payload")),
            _maybe_text(document, "target_endpoint"),
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
    """The answer to a message that this module had sent."""

    op: ClassVar[str] = "routed_module_response"
    source_module_id: str
    request_id: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> RoutedResponse:
        return cls(
            _text(document, "source_module_id"), _text(document, "request_id"), Payload.read(document.get("payload"))
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "source_module_id": self.source_module_id,
            "request_id": self.request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Extension `events`: something that was published on a topic."""

    op: ClassVar[str] = "event"
    topic: str
    source_module_id: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> Event:
        return cls(_text(document, "topic"), _text(document, "source_module_id"), Payload.read(document.get("payload")))

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "topic": self.topic,
            "source_module_id": self.source_module_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }


# Module to orchestrator ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """One endpoint: path template, methods, and the name of what guards it."""

    path: str
    methods: tuple[str, ...]
    auth: str | None = None

    @classmethod
    def read(cls, document: Any) -> AnnouncedEndpoint:
        if document.__class__ is not dict:
            raise _wrong("endpoints", "a list of objects")
        return cls(_text(document, "path"), _texts(document, "methods"), _maybe_text(document, "auth"))

    def wire(self) -> Document:
        document: Document = {"path": self.path, "methods": list(self.methods)}
        if self.auth is not None:
            document["auth"] = self.auth
        return document


@dataclass(frozen=True, slots=True)
class Announce:
    """Where the module listens, really bound, and what it serves there."""

    op: ClassVar[str] = "announce"
    listen: str
    endpoints: tuple[AnnouncedEndpoint, ...] = ()
    extensions: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Document) -> Announce:
        endpoints = document.get("endpoints")
        if endpoints is not None and endpoints.__class__ is not list:
            raise _wrong("endpoints", "a list of objects")
        return cls(
            _address(document.get("listen"), "listen"),
            tuple(AnnouncedEndpoint.read(each) for each in endpoints or ()),
            _texts(document, "extensions"),
        )

    def wire(self, extensions: Extensions) -> Document:
        endpoints = [each.wire() for each in self.endpoints]
        document: Document = {"op": "announce", "listen": self.listen, "endpoints": endpoints}
        if self.extensions:
            document["extensions"] = list(self.extensions)
        return document


@dataclass(frozen=True, slots=True)
class Identify:
    """The first frame on a channel: who is there. Where it offers `extensions`, the side that was connected to answers
    with one of its own."""

    op: ClassVar[str] = "identify"
    module_id: str
    auth_token: str | None = field(default=None, repr=False)
    extensions: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Document) -> Identify:
        member = "identify" if "module_id" not in document and "identify" in document else "module_id"
        return cls(_text(document, member), _maybe_text(document, "auth_token"), _texts(document, "extensions"))

    def wire(self, extensions: Extensions) -> Document:
        document: Document = {"op": "identify", "module_id": self.module_id}
        if self.auth_token is not None:
            document["auth_token"] = self.auth_token
        if self.extensions:
            document["extensions"] = list(self.extensions)
        return document


@dataclass(frozen=True, slots=True)
class GetSecret:
    """Asks for a secret by its name; the name is the correlation where no `request_id` was agreed on."""

    op: ClassVar[str] = "get_secret"
    name: str
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> GetSecret:
        return cls(_text(document, "name"), _maybe_text(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        return _with_id({"op": "get_secret", "name": self.name}, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class RotationAck:
    """Says once for each rotation whether the new values are in use. `status` is `success` or `error`."""

    op: ClassVar[str] = "rotation_ack"
    rotation_id: str
    status: str
    message: str | None = None

    @classmethod
    def read(cls, document: Document) -> RotationAck:
        return cls(_text(document, "rotation_id"), _text(document, "status"), _maybe_text(document, "message"))

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "rotation_ack", "rotation_id": self.rotation_id, "status": self.status}
        if self.message is not None:
            document["message"] = self.message
        return document


@dataclass(frozen=True, slots=True)
class Register:
    """Offers a service."""

    op: ClassVar[str] = "register_service_provider"
    service_type: str
    name: str
    address: str
    version: str | None = None
    metadata: Mapping[str, str] | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Register:
        return cls(
            _service_type(document),
            _text(document, "name"),
            _text(document, "address"),
            _maybe_text(document, "version"),
            None if document.get("metadata") is None else _mapping(document, "metadata"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {
            "op": self.op,
            "service_type": _wire_service_type(self.service_type),
            "name": self.name,
            "version": self.version,
            "address": self.address,
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Deregister:
    """Extension `deregister`: a service is not offered any more. It has no answer."""

    op: ClassVar[str] = "deregister_service_provider"
    provider_id: str

    @classmethod
    def read(cls, document: Document) -> Deregister:
        return cls(_text(document, "provider_id"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "provider_id": self.provider_id}


@dataclass(frozen=True, slots=True)
class Discover:
    """Asks who offers a service: the first that is healthy, or everyone."""

    op: ClassVar[str] = "discover_service_providers"
    service_type: str
    all_providers: bool | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Discover:
        wanted = None if document.get("all_providers") is None else _flag(document, "all_providers")
        return cls(_service_type(document), wanted, _maybe_text(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        document: Document = {
            "op": self.op,
            "service_type": _wire_service_type(self.service_type),
            "all_providers": self.all_providers,
        }
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """Asks for a connection to a store of the orchestrator."""

    op: ClassVar[str] = "service_request"
    id: str
    service_type: str
    config: Any = field(default=None, repr=False)

    @classmethod
    def read(cls, document: Document) -> ServiceRequest:
        return cls(_text(document, "id"), _service_type(document), document.get("config"))

    def wire(self, extensions: Extensions) -> Document:
        service_type = _wire_service_type(self.service_type)
        return {"op": self.op, "id": self.id, "service_type": service_type, "config": self.config}


@dataclass(frozen=True, slots=True)
class ServiceOperation:
    """One operation on a store of the orchestrator."""

    op: ClassVar[str] = "service_operation"
    connection_id: str
    service_type: str
    operation: str
    params: Any = field(default=None, repr=False)
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> ServiceOperation:
        return cls(
            _text(document, "connection_id"),
            _service_type(document),
            _text(document, "operation"),
            document.get("params"),
            _maybe_text(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {
            "op": self.op,
            "connection_id": self.connection_id,
            "service_type": _wire_service_type(self.service_type),
            "operation": self.operation,
            "params": self.params,
        }
        return _with_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """The answer to `http_request`."""

    op: ClassVar[str] = "http_response"
    request_id: str
    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, document: Document) -> HttpResponse:
        return cls(
            _text(document, "request_id"),
            _number(document, "status_code", 100, 999),
            _mapping(document, "headers"),
            _body(document),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "request_id": self.request_id,
            "status_code": self.status_code,
            "headers": dict(self.headers),
            "body": None if self.body is None else list(self.body),
        }


@dataclass(frozen=True, slots=True)
class PortRequest:
    """Asks for a port that the module may listen on."""

    op: ClassVar[str] = "port_request"
    request_id: str
    specific_port: int | None = None

    @classmethod
    def read(cls, document: Document) -> PortRequest:
        return cls(_text(document, "request_id"), _maybe_number(document, "specific_port", 0, 65535))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "request_id": self.request_id, "specific_port": self.specific_port}


@dataclass(frozen=True, slots=True)
class RouteToModule:
    """A message to another module, or the answer to one of its messages under the same request id (a UUID)."""

    op: ClassVar[str] = "route_to_module"
    target_module_id: str
    target_endpoint: str
    request_id: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> RouteToModule:
        return cls(
            _text(document, "target_module_id"),
            _maybe_text(document, "target_endpoint") or "",
            _text(document, "request_id"),
            Payload.read(document.get("payload")),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "target_module_id": self.target_module_id,
            "target_endpoint": self.target_endpoint,
            "request_id": self.request_id,
            "payload": self.payload.wire(inline="inline_payload" in extensions),
        }


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """I am here. `health` (extension `health`): `{"status", "checks"}`."""

    op: ClassVar[str] = "heartbeat_ack"
    health: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, document: Document) -> HeartbeatAck:
        return cls(_object(document, "health"))

    def wire(self, extensions: Extensions) -> Document:
        if self.health is None or "health" not in extensions:
            return {"op": "heartbeat_ack"}
        return {"op": "heartbeat_ack", "health": dict(self.health)}


@dataclass(frozen=True, slots=True)
class Draining:
    """Extension `drain`: the module is about to stop accepting."""

    op: ClassVar[str] = "draining"

    @classmethod
    def read(cls, document: Document) -> Draining:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "draining"}


@dataclass(frozen=True, slots=True)
class Publish:
    """Extension `events`: something for everyone who subscribed to the topic."""

    op: ClassVar[str] = "publish"
    topic: str
    payload: Payload

    @classmethod
    def read(cls, document: Document) -> Publish:
        return cls(_text(document, "topic"), Payload.read(document.get("payload")))

    def wire(self, extensions: Extensions) -> Document:
        payload = self.payload.wire(inline="inline_payload" in extensions)
        return {"op": "publish", "topic": self.topic, "payload": payload}


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Extension `events`: send me what is published on the topic."""

    op: ClassVar[str] = "subscribe"
    topic: str

    @classmethod
    def read(cls, document: Document) -> Subscribe:
        return cls(_text(document, "topic"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "subscribe", "topic": self.topic}


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Extension `events`: no more of it."""

    op: ClassVar[str] = "unsubscribe"
    topic: str

    @classmethod
    def read(cls, document: Document) -> Unsubscribe:
        return cls(_text(document, "topic"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "unsubscribe", "topic": self.topic}


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
)
Message: TypeAlias = ToModule | ToOrchestrator | Error
Received: TypeAlias = Message | Unknown

MESSAGES: tuple[type[Any], ...] = (
    Init, SecretValue, Rotated, Shutdown, Heartbeat, Registered, Discovered, ServiceResponse, ServiceOperationResult,
    HttpRequest, PortResponse, RoutedMessage, RoutedResponse, Event, Announce, Identify, GetSecret, RotationAck,
    Register, Deregister, Discover, ServiceRequest, ServiceOperation, HttpResponse, PortRequest, RouteToModule,
    HeartbeatAck, Draining, Publish, Subscribe, Unsubscribe, Error,
)  # fmt: skip
_READERS: dict[str, Callable[[Document], Message]] = {message.op: message.read for message in MESSAGES}


def message_of(document: Any) -> Received:
    """The message that a JSON document is: with its `op`, in a Message envelope, or in one of the old shapes without
    an `op` (announce, init, `{"identify": id}`). Raises ProtocolError."""
    if document.__class__ is not dict:
        raise ProtocolError("message", "it is not a JSON object")
    if "op" not in document and document.get("content").__class__ is dict:
        document = document["content"]
    op = document.get("op")
    if op is None:
        op = _op_of(document)
    if op.__class__ is not str:
        raise ProtocolError("message", "op is not a text")
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
    raise ProtocolError("message", "it has no op")
