"""How a connection begins, is kept alive and ends: the handshake, announce, identify, heartbeats, shutdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_address,
    read_boolean,
    read_integer,
    read_object,
    read_optional_string,
    read_string,
    read_string_map,
    read_strings,
    wrong_member,
)


@dataclass(frozen=True, slots=True)
class TcpChannelOffer:
    """Where the orchestrator accepts frames over TCP."""

    address: str
    tls_enabled: bool = False
    required: bool = False


@dataclass(frozen=True, slots=True)
class IpcChannelOffer:
    """Where the orchestrator accepts frames over a Unix socket."""

    socket_path: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Init:
    """The first line of the handshake, from the orchestrator. `listen` is `IP:port` (with port 0 the module chooses a
    port) or the path of a Unix socket. `log_level` is read from peers that send it; this package never sends it."""

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
            read_optional_string(document, "orchestrator_api") or "",
            read_string(document, "module_id"),
            read_string_map(document, "env"),
            None if listen is None else read_address(listen, "listen"),
            _tcp_channel(read_object(document, "tcp_channel")),
            _ipc_channel(read_object(document, "ipc_channel")),
            read_optional_string(document, "auth_token"),
            read_optional_string(document, "security_level"),
            read_optional_string(document, "log_level") or ("debug" if document.get("debug_mode") is True else None),
            read_strings(document, "extensions"),
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
        host = read_string(offer, "host")
        address = f"{f'[{host}]' if ':' in host else host}:{read_integer(offer, 'port', 0, 65535)}"
    else:
        address = read_string(offer, "address")
    return TcpChannelOffer(address, read_boolean(offer, "tls_enabled"), read_boolean(offer, "required"))


def _ipc_channel(offer: Document | None) -> IpcChannelOffer | None:
    return (
        None if offer is None else IpcChannelOffer(read_string(offer, "socket_path"), read_boolean(offer, "required"))
    )


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Asks the module to drain and then to exit."""

    op: ClassVar[str] = "shutdown"

    @classmethod
    def read(cls, document: Document) -> Shutdown:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "shutdown"}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Asks whether the other side still answers."""

    op: ClassVar[str] = "heartbeat"

    @classmethod
    def read(cls, document: Document) -> Heartbeat:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "heartbeat"}


@dataclass(frozen=True, slots=True)
class HeartbeatAck:
    """The answer to `heartbeat`. `health` (extension `health`) is `{"status", "checks"}`."""

    op: ClassVar[str] = "heartbeat_ack"
    health: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, document: Document) -> HeartbeatAck:
        return cls(read_object(document, "health"))

    def wire(self, extensions: Extensions) -> Document:
        if self.health is None or "health" not in extensions:
            return {"op": "heartbeat_ack"}
        return {"op": "heartbeat_ack", "health": dict(self.health)}


@dataclass(frozen=True, slots=True)
class AnnouncedEndpoint:
    """One endpoint of an announce: path template, methods, and the name of its auth scheme."""

    path: str
    methods: tuple[str, ...]
    auth: str | None = None

    @classmethod
    def read(cls, document: Any) -> AnnouncedEndpoint:
        if document.__class__ is not dict:
            raise wrong_member("endpoints", "a list of objects")
        return cls(
            read_string(document, "path"), read_strings(document, "methods"), read_optional_string(document, "auth")
        )

    def wire(self) -> Document:
        document: Document = {"path": self.path, "methods": list(self.methods)}
        if self.auth is not None:
            document["auth"] = self.auth
        return document


@dataclass(frozen=True, slots=True)
class Announce:
    """Where the module listens (the address that was bound) and which endpoints it serves there."""

    op: ClassVar[str] = "announce"
    listen: str
    endpoints: tuple[AnnouncedEndpoint, ...] = ()
    extensions: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Document) -> Announce:
        endpoints = document.get("endpoints")
        if endpoints is not None and endpoints.__class__ is not list:
            raise wrong_member("endpoints", "a list of objects")
        return cls(
            read_address(document.get("listen"), "listen"),
            tuple(AnnouncedEndpoint.read(each) for each in endpoints or ()),
            read_strings(document, "extensions"),
        )

    def wire(self, extensions: Extensions) -> Document:
        endpoints = [each.wire() for each in self.endpoints]
        document: Document = {"op": "announce", "listen": self.listen, "endpoints": endpoints}
        if self.extensions:
            document["extensions"] = list(self.extensions)
        return document


@dataclass(frozen=True, slots=True)
class Identify:
    """The first frame on a channel: the sender's module id and token. Where it offers `extensions`, the side that
    accepted the connection answers with an `identify` of its own."""

    op: ClassVar[str] = "identify"
    module_id: str
    auth_token: str | None = field(default=None, repr=False)
    extensions: tuple[str, ...] = ()

    @classmethod
    def read(cls, document: Document) -> Identify:
        member = "identify" if "module_id" not in document and "identify" in document else "module_id"
        return cls(
            read_string(document, member),
            read_optional_string(document, "auth_token"),
            read_strings(document, "extensions"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document: Document = {"op": "identify", "module_id": self.module_id}
        if self.auth_token is not None:
            document["auth_token"] = self.auth_token
        if self.extensions:
            document["extensions"] = list(self.extensions)
        return document


@dataclass(frozen=True, slots=True)
class Draining:
    """Extension `drain`: the module is about to stop accepting requests."""

    op: ClassVar[str] = "draining"

    @classmethod
    def read(cls, document: Document) -> Draining:
        return cls()

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "draining"}
