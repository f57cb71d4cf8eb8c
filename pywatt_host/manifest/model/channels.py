"""`channels`: how the module talks with its orchestrator and with its peers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Section, key
from pywatt_host.manifest.values import (
    MODE_PATTERN,
    Bool,
    Int,
    PositiveDuration,
    SecretToken,
    Size,
    TcpListen,
    TcpTarget,
)

_setting = key  # a name that is still there after a key called `key`


class ChannelTls(Section):
    """TLS of a channel: who we are, and whom we trust."""

    cert: str | None = _setting(
        None, "Our certificate with its chain, PEM, relative to the manifest.", "tls/users.pem", min_length=1
    )
    key: str | None = _setting(
        None, "The certificate's private key, PEM, relative to the manifest.", "tls/users.key", min_length=1
    )
    client_ca: str | None = _setting(
        None,
        "Listening: only clients whose certificate one of these has signed are let in. PEM, relative to the manifest.",
        "tls/clients.pem",
        min_length=1,
    )
    ca: str | None = _setting(
        None,
        "Connecting: who signs the server's certificate, PEM, relative to the manifest. Left out: the system's.",
        "tls/ca.pem",
        min_length=1,
    )
    server_name: str | None = _setting(
        None,
        "Connecting: the name that the server's certificate must have. Left out: the host in `connect`.",
        "wattson",
        min_length=1,
    )

    @model_validator(mode="after")
    def _pairs(self) -> ChannelTls:
        if (self.cert is None) != (self.key is None):
            raise PydanticCustomError("conflict", "cert and key belong together", {})
        return self


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
    limits: ChannelLimits = key(ChannelLimits, "What a peer may cost.", {"frame": "1MiB"})
