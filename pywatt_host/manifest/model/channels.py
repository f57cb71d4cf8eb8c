"""`channels`: how the module communicates with its orchestrator and with its peers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Kind, Kinds, Section, Short, key, required
from pywatt_host.manifest.values import (
    MODE_PATTERN,
    TCP_ADDRESS,
    Bool,
    Format,
    Int,
    PositiveDuration,
    Prefix,
    RateLimit,
    SecretText,
    SecretToken,
    SensitiveUrl,
    Size,
    TcpListen,
    TcpTarget,
    as_list,
)
from pywatt_host.manifest.values.scalars import SPACE, fault, text_of

DEV_NATS = "nats+dev"
NATS_URL = rf"^(nats|tls|nats\+dev)://[^{SPACE}/?#]*/?$"

Mode: TypeAlias = Annotated[str, Field(pattern=MODE_PATTERN), Format("an octal mode", 'write "0660", with the quotes')]
SubjectPrefix: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_-]{1,32}$"),
    Format("a subject prefix", "use letters, digits, dashes and underscores; at most 32 characters"),
]

_setting = key  # a name that a field called `key` does not hide


class ClientTls(Section):
    """TLS settings of a client: its own certificate, and the certificates that it trusts."""

    together = (("cert", "key"), ("key", "cert"))

    cert: str | None = _setting(
        None,
        "File with this module's certificate and its chain, PEM, relative to the manifest.",
        "tls/users.pem",
        min_length=1,
    )
    key: str | None = _setting(
        None,
        "File with the private key of the certificate, PEM, relative to the manifest.",
        "tls/users.key",
        min_length=1,
    )
    ca: str | None = _setting(
        None,
        "Connecting: file with the CA certificates that must have signed the server's certificate, PEM, relative"
        " to the manifest. If omitted, the CA certificates of the system.",
        "tls/ca.pem",
        min_length=1,
    )
    server_name: str | None = _setting(
        None,
        "Connecting: name that the server's certificate must have. If omitted, the host that the module connects to.",
        "wattson",
        min_length=1,
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise PydanticCustomError("conflict", "cert and key must be given together", {})
        return self


class ChannelTls(ClientTls):
    """TLS settings of a channel: the module's own certificate, and the certificates that it trusts."""

    client_ca: str | None = _setting(
        None,
        "Listening: file with CA certificates, PEM, relative to the manifest. Only clients whose certificate was"
        " signed by one of them may connect.",
        "tls/clients.pem",
        min_length=1,
    )


_WAYS = Kinds((Kind("connect", without=frozenset(("listen",))),), required=("listen",))


def _one_way(section: Any) -> None:
    if (section.listen is None) == (section.connect is None):
        raise PydanticCustomError("conflict", "a channel needs exactly one of listen and connect", {})


class IpcChannel(Section):
    """A channel over a Unix socket. The orchestrator's init message can open one without this section."""

    kinds = _WAYS

    listen: str | None = key(
        None,
        "Path of the socket that the module listens on and peers connect to, relative to the manifest.",
        "/run/users.sock",
        min_length=1,
    )
    connect: str | None = key(
        None,
        "Path of the socket that the module connects to, relative to the manifest.",
        "/run/wattson.sock",
        min_length=1,
    )
    mode: Mode = key(
        "0600", "Permission bits of the socket that the module listens on, as octal digits in quotes.", "0660"
    )
    required: Bool = key(False, "Whether the host exits with code 4 if the channel cannot connect at start.", True)

    @model_validator(mode="after")
    def _ways(self) -> IpcChannel:
        _one_way(self)
        return self


class TcpChannel(Section):
    """A channel over a TCP connection, with the frames of the Wattson protocol."""

    kinds = _WAYS

    listen: TcpListen | None = key(None, "Address that the module listens on and peers connect to.", "127.0.0.1:9000")
    connect: TcpTarget | None = key(None, "Address that the module connects to.", "10.0.0.5:9000")
    token: SecretToken | None = key(
        None,
        "Token that a peer must present (listening) or that the module presents (connecting). If omitted, the"
        " auth_token of the orchestrator's init message.",
        "${secret:CHANNEL_TOKEN}",
    )
    tls: ChannelTls | None = key(
        None,
        "TLS settings. With client_ca, TLS is mutual. If omitted, the channel is plain TCP.",
        {"cert": "a.pem", "key": "a.key"},
    )
    required: Bool = key(False, "Whether the host exits with code 4 if the channel cannot connect at start.", True)

    @model_validator(mode="after")
    def _ways(self) -> TcpChannel:
        _one_way(self)
        tls = self.tls
        if tls is None:
            return self
        if self.connect is not None and tls.client_ca is not None:
            raise PydanticCustomError(
                "conflict", "client_ca is for listening (use tls.ca for connecting)", {"key": "tls"}
            )
        if self.listen is not None and tls.cert is None:
            raise PydanticCustomError("conflict", "listening with TLS requires tls.cert and tls.key", {"key": "tls"})
        if self.listen is not None and (tls.ca is not None or tls.server_name is not None):
            message = "ca and server_name are for connecting (use tls.client_ca for listening)"
            raise PydanticCustomError("conflict", message, {"key": "tls"})
        return self


class HttpChannel(Section):
    """Messages by HTTP POST: peers post to this module's HTTP listener, and this module posts to theirs."""

    path: Prefix = key(
        "/_pywatt/messages", "Path that messages are posted to, on this module and on the other modules.", "/_messages"
    )
    token: SecretToken | None = key(
        None,
        "Token that a peer must present to this module, and that this module presents to a peer. Required where the"
        " module listens on TCP, loopback addresses included. If omitted, a peer must present the auth_token of the"
        " orchestrator's init message.",
        "${secret:CHANNEL_TOKEN}",
    )


def _nats_url(value: Any) -> str:
    text = text_of(value, "a URL", "nats://127.0.0.1:4222")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("nats", "tls", DEV_NATS):
        hint = f"nats://{text}" if not separator else f"nats://{rest}"
        raise fault(
            "url",
            "the URL of a NATS server must be nats://HOST:PORT or tls://HOST:PORT; perhaps {hint}",
            hint=hint[:80],
        )
    host = rest.rstrip("/").rpartition("@")[2]
    if scheme == DEV_NATS:
        if host:
            raise fault("url", "nats+dev:// is a private server on this machine and takes no host (write nats+dev://)")
    elif not (re.match(r"[A-Za-z0-9._-]+\Z", host) or (TCP_ADDRESS.match(host) and not host.startswith(":"))):
        raise fault("url", "the URL of a NATS server must be nats://HOST:PORT or tls://HOST:PORT")
    return text


NatsUrl: TypeAlias = Annotated[
    str,
    PlainValidator(_nats_url),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": NATS_URL}),
    SensitiveUrl(),
]


class NatsChannel(Section):
    """A channel over NATS, for modules on many machines. Requires the extra `nats`."""

    kinds = Kinds(
        (
            Kind("credentials", without=frozenset(("user", "password", "token"))),
            Kind("user", without=frozenset(("token",)), required=("password",)),
            Kind("token", without=frozenset(("user", "password"))),
        )
    )
    together = (("password", "user"),)

    servers: Annotated[tuple[NatsUrl, ...], Field(strict=False, min_length=1), BeforeValidator(as_list)] = required(
        "Servers of one cluster, nats://HOST:PORT or tls://HOST:PORT. The module uses one that answers."
        " nats+dev:// is a private local server, for dev and up only.",
        "nats://127.0.0.1:4222",
        ["nats://a.example:4222", "nats://b.example:4222"],
    )
    credentials: SecretText | None = key(
        None,
        "Credentials (JWT and nkey seed): the path of a .creds file, relative to the manifest, or its text.",
        "${secret:NATS_CREDS}",
    )
    user: Annotated[str, Field(min_length=1)] | None = key(None, "User name of the module at the servers.", "users")
    password: SecretToken | None = key(None, "Password of the user.", "${secret:NATS_PASSWORD}")
    token: SecretToken | None = key(None, "Token, if the servers require one.", "${secret:NATS_TOKEN}")
    tls: ClientTls | None = key(
        None,
        "TLS settings of the client. If omitted, only servers with a tls:// URL are reached over TLS.",
        {"ca": "tls/ca.pem"},
    )
    prefix: SubjectPrefix = key(
        "pywatt", "First part of every subject, and of the names of streams and buckets.", "staging"
    )
    delivery: Literal["at_most_once", "at_least_once"] = key(
        "at_most_once",
        "What `send_message` guarantees. `at_least_once`: JetStream keeps the message until the handler is done."
        " Sender and receiver must both set it.",
        "at_least_once",
    )
    ack_wait: PositiveDuration = key(
        30.0,
        "at_least_once: how long after the loss of a receiver its messages are delivered to another receiver.",
        "10s",
    )
    max_deliver: Int = key(
        5,
        "at_least_once: number of delivery attempts, after which the message is stored as a dead letter.",
        3,
        ge=1,
        le=1000,
    )
    lease: PositiveDuration = key(
        10.0,
        "How long a registration outlives its module. The module renews it three times in this period. At least 1s.",
        "6s",
    )
    reconnect_buffer: Size = key(
        2 * 1024**2, "Number of bytes that may wait while no server is connected. Further messages are refused.", "8MiB"
    )
    required: Bool = key(False, "Whether the host exits with code 4 if it reaches no server at start.", True)

    @model_validator(mode="after")
    def _fits(self) -> NatsChannel:
        if (self.user is None) != (self.password is None):
            raise PydanticCustomError("conflict", "user and password must be given together", {})
        if self.lease < 1.0:
            raise PydanticCustomError("conflict", "the lease must be at least 1s", {"key": "lease"})
        ways = [name for name in ("credentials", "user", "token") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise PydanticCustomError(
                "conflict", "only one of credentials, user and token can be used (remove the others)", {"key": ways[1]}
            )
        if any(url.startswith(DEV_NATS) for url in self.servers) and len(self.servers) > 1:
            message = "nats+dev:// must be the only server, because it is one private server on this machine"
            raise PydanticCustomError("conflict", message, {"key": "servers"})
        return self


class ChannelLimits(Section):
    """Limits on what a peer may send, and on how long the module waits for it."""

    frame: Size = key(16 * 1024**2, "Maximum size of one message. A longer message closes the channel.", "1MiB")
    handshake: PositiveDuration = key(
        10.0, "How long the module waits for the orchestrator's init message, and for a peer to identify itself.", "5s"
    )
    heartbeat_missed: Int = key(
        3,
        "Number of heartbeats in a row that must be missing before the orchestrator counts as lost.",
        5,
        ge=1,
        le=1000,
    )
    messages: Int = key(
        256,
        "Number of messages that are handled at the same time. Up to 16 times as many wait, and further messages"
        " are refused.",
        32,
        ge=1,
        le=100000,
    )
    rate: RateLimit | None = key(
        None,
        "Rate limit for the messages that one module sends to this one. Further messages are refused. If omitted,"
        " there is no rate limit.",
        "1000/s",
    )


class Channels(Section):
    """How the module communicates with its orchestrator and with its peers."""

    stdio: Literal["auto", "required", "off"] = key(
        "auto",
        "The channel to the orchestrator on standard input and output. `auto`: used if PYWATT_MODULE_ID or"
        " --orchestrated says that there is an orchestrator.",
        "required",
    )
    ipc: IpcChannel | None = key(None, "A channel over a Unix socket.", {"listen": "/run/users.sock"})
    tcp: TcpChannel | None = key(
        None, "A channel over a TCP connection.", {"listen": "0.0.0.0:9000", "token": "${secret:CHANNEL_TOKEN}"}
    )
    http: HttpChannel | None = key(
        None, "Messages by HTTP POST, received on the module's HTTP listener.", {"token": "${secret:CHANNEL_TOKEN}"}
    )
    nats: Annotated[NatsChannel | None, Short(text="servers", items="servers")] = key(
        None,
        "A channel over NATS, for modules on many machines. A string or a list is short for `{servers: ...}`.",
        "nats://127.0.0.1:4222",
        {"servers": "nats://127.0.0.1:4222", "credentials": "${secret:NATS_CREDS}"},
    )
    limits: ChannelLimits = key(
        ChannelLimits, "Limits on what a peer may send, and on how long the module waits for it.", {"frame": "1MiB"}
    )
