"""`channels`: how the module talks with its orchestrator and with its peers."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Section, Short, key, required
from pywatt_host.manifest.values import (
    MODE_PATTERN,
    TCP_ADDRESS,
    Bool,
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
from pywatt_host.manifest.values.scalars import fault, text_of

DEV_NATS = "nats+dev"
NATS_URL = r"^(nats|tls|nats\+dev)://[^\s/?#]*/?$"

_setting = key  # a name that is still there after a key called `key`


class ClientTls(Section):
    """TLS as a client: whom we trust, and who we are."""

    cert: str | None = _setting(
        None, "Our certificate with its chain, PEM, relative to the manifest.", "tls/users.pem", min_length=1
    )
    key: str | None = _setting(
        None, "The certificate's private key, PEM, relative to the manifest.", "tls/users.key", min_length=1
    )
    ca: str | None = _setting(
        None,
        "Connecting: who signs the server's certificate, PEM, relative to the manifest. Left out: the system's.",
        "tls/ca.pem",
        min_length=1,
    )
    server_name: str | None = _setting(
        None,
        "Connecting: the name that the server's certificate must have. Left out: the host that is connected to.",
        "wattson",
        min_length=1,
    )

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise PydanticCustomError("conflict", "cert and key belong together", {})
        return self


class ChannelTls(ClientTls):
    """TLS of a channel: who we are, and whom we trust."""

    client_ca: str | None = _setting(
        None,
        "Listening: only clients whose certificate one of these has signed are let in. PEM, relative to the manifest.",
        "tls/clients.pem",
        min_length=1,
    )


def _one_way(section: Any) -> None:
    if (section.listen is None) == (section.connect is None):
        raise PydanticCustomError("conflict", "a channel has either listen or connect", {})


class IpcChannel(Section):
    """A Unix socket. The orchestrator's init opens one by itself."""

    listen: str | None = key(
        None, "Path of a socket that peers connect to, relative to the manifest.", "/run/users.sock", min_length=1
    )
    connect: str | None = key(
        None, "Path of the socket to connect to, relative to the manifest.", "/run/wattson.sock", min_length=1
    )
    mode: Annotated[str, Field(pattern=MODE_PATTERN)] = key(
        "0600", "Permission bits of the socket that is listened on, octal, quoted.", "0660"
    )
    required: Bool = key(False, "Whether a channel that cannot connect at start ends the host (exit code 4).", True)

    @model_validator(mode="after")
    def _ways(self) -> IpcChannel:
        _one_way(self)
        return self


class TcpChannel(Section):
    """A TCP connection with the frames of the Wattson protocol."""

    listen: TcpListen | None = key(None, "Where peers connect to.", "127.0.0.1:9000")
    connect: TcpTarget | None = key(None, "Whom to connect to.", "10.0.0.5:9000")
    token: SecretToken | None = key(
        None,
        "Token that a peer must present (listening) or that is presented (connecting). Left out: init.auth_token.",
        "${secret:CHANNEL_TOKEN}",
    )
    tls: ChannelTls | None = key(None, "TLS; with client_ca, mutual.", {"cert": "a.pem", "key": "a.key"})
    required: Bool = key(False, "Whether a channel that cannot connect at start ends the host (exit code 4).", True)

    @model_validator(mode="after")
    def _ways(self) -> TcpChannel:
        _one_way(self)
        tls = self.tls
        if tls is None:
            return self
        if self.connect is not None and tls.client_ca is not None:
            raise PydanticCustomError("conflict", "client_ca is for listening; connecting has tls.ca", {"key": "tls"})
        if self.listen is not None and tls.cert is None:
            raise PydanticCustomError("conflict", "listening with TLS wants tls.cert and tls.key", {"key": "tls"})
        if self.listen is not None and (tls.ca is not None or tls.server_name is not None):
            message = "ca and server_name are for connecting; listening has tls.client_ca"
            raise PydanticCustomError("conflict", message, {"key": "tls"})
        return self


class HttpChannel(Section):
    """Messages by POST: to this module on its HTTP listener, from it to the HTTP listeners of others."""

    path: Prefix = key("/_pywatt/messages", "Where messages are taken, here and at the others.", "/_messages")
    token: SecretToken | None = key(
        None, "Token that a peer must present here, and that is presented there.", "${secret:CHANNEL_TOKEN}"
    )


def _nats_url(value: Any) -> str:
    text = text_of(value, "a URL", "nats://127.0.0.1:4222")
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("nats", "tls", DEV_NATS):
        hint = f"nats://{text}" if not separator else f"nats://{rest}"
        raise fault("url", "a NATS server is nats://HOST:PORT or tls://HOST:PORT; perhaps {hint}", hint=hint[:80])
    host = rest.rstrip("/").rpartition("@")[2]
    if scheme == DEV_NATS:
        if host:
            raise fault("url", "nats+dev:// is a server of this machine's own; it takes no host")
    elif not (re.match(r"[A-Za-z0-9._-]+\Z", host) or (TCP_ADDRESS.match(host) and not host.startswith(":"))):
        raise fault("url", "a NATS server is nats://HOST:PORT or tls://HOST:PORT")
    return text


NatsUrl: TypeAlias = Annotated[
    str,
    PlainValidator(_nats_url),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": NATS_URL}),
    SensitiveUrl(),
]


class NatsChannel(Section):
    """NATS: modules on many machines. Needs the extra `nats`."""

    servers: Annotated[tuple[NatsUrl, ...], Field(strict=False, min_length=1), BeforeValidator(as_list)] = required(
        "Servers of one cluster, nats://HOST:PORT or tls://HOST:PORT; one that answers is used. nats+dev:// is a"
        " private local server, in dev and up only.",
        "nats://127.0.0.1:4222",
        ["nats://a.example:4222", "nats://b.example:4222"],
    )
    credentials: SecretText | None = key(
        None,
        "Credentials (JWT and nkey seed): a .creds file, relative to the manifest, or its text.",
        "${secret:NATS_CREDS}",
    )
    user: Annotated[str, Field(min_length=1)] | None = key(None, "User name at the servers.", "users")
    password: SecretToken | None = key(None, "The user's password.", "${secret:NATS_PASSWORD}")
    token: SecretToken | None = key(None, "A token, where the servers want one.", "${secret:NATS_TOKEN}")
    tls: ClientTls | None = key(None, "TLS as a client.", {"ca": "tls/ca.pem"})
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")] = key(
        "pywatt", "First part of every subject, and of the names of streams and buckets.", "staging"
    )
    delivery: Literal["at_most_once", "at_least_once"] = key(
        "at_most_once",
        "What `send_message` promises. `at_least_once`: kept by JetStream until the handler is done. Sender and"
        " receiver both say it.",
        "at_least_once",
    )
    ack_wait: PositiveDuration = key(
        30.0, "at_least_once: how long after the loss of a receiver its messages are delivered to another.", "10s"
    )
    max_deliver: Int = key(
        5, "at_least_once: how often a message is tried before it is put aside as a dead letter.", 3, ge=1, le=1000
    )
    lease: PositiveDuration = key(
        10.0, "How long what is registered outlives its module; it is renewed three times as often.", "6s"
    )
    reconnect_buffer: Size = key(
        2 * 1024**2, "Octets that wait while no server is connected; more are refused.", "8MiB"
    )
    required: Bool = key(False, "Whether a host that reaches no server at its start ends (exit code 4).", True)

    @model_validator(mode="after")
    def _fits(self) -> NatsChannel:
        if (self.user is None) != (self.password is None):
            raise PydanticCustomError("conflict", "user and password belong together", {})
        if self.lease < 1.0:
            raise PydanticCustomError("conflict", "a lease is one second at least", {"key": "lease"})
        ways = [name for name in ("credentials", "user", "token") if getattr(self, name) is not None]
        if len(ways) > 1:
            raise PydanticCustomError("conflict", "one of credentials, user and token is enough", {"key": ways[1]})
        if any(url.startswith(DEV_NATS) for url in self.servers) and len(self.servers) > 1:
            message = "nats+dev:// stands alone: it is one server of this machine's own"
            raise PydanticCustomError("conflict", message, {"key": "servers"})
        return self


class ChannelLimits(Section):
    """What a peer may cost."""

    frame: Size = key(16 * 1024**2, "Most octets of one message; a longer one closes the channel.", "1MiB")
    handshake: PositiveDuration = key(
        10.0, "How long to wait for the orchestrator's init, and for a peer to identify itself.", "5s"
    )
    heartbeat_missed: Int = key(
        3, "Heartbeats in a row after whose absence the orchestrator counts as gone.", 5, ge=1, le=1000
    )
    messages: Int = key(
        256, "Messages that are handled at the same time; 16 times as many wait, more are refused.", 32, ge=1, le=100000
    )
    rate: RateLimit | None = key(None, "Messages that one module may send here in a time; more are refused.", "1000/s")


class Channels(Section):
    """How the module talks with its orchestrator and with its peers."""

    stdio: Literal["auto", "required", "off"] = key(
        "auto",
        "The orchestrator on standard input and output. `auto`: where PYWATT_MODULE_ID or --orchestrated says so.",
        "required",
    )
    ipc: IpcChannel | None = key(None, "A Unix socket.", {"listen": "/run/users.sock"})
    tcp: TcpChannel | None = key(
        None, "A TCP connection.", {"listen": "0.0.0.0:9000", "token": "${secret:CHANNEL_TOKEN}"}
    )
    http: HttpChannel | None = key(None, "Messages by POST on the HTTP listener.", {"token": "${secret:CHANNEL_TOKEN}"})
    nats: Annotated[NatsChannel | None, Short(text="servers", items="servers")] = key(
        None,
        "NATS, for modules on many machines. A text or a list is short for `{servers: ...}`.",
        "nats://127.0.0.1:4222",
        {"servers": "nats://127.0.0.1:4222", "credentials": "${secret:NATS_CREDS}"},
    )
    limits: ChannelLimits = key(ChannelLimits, "What a peer may cost.", {"frame": "1MiB"})
