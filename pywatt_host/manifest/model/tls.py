"""`tls`: the certificate of a listener, what it demands of clients, and where a manifest declares such settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias

from pydantic import Discriminator, PlainSerializer, PlainValidator, Tag, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Deferred, Section, required
from pywatt_host.manifest.model.base import key as _setting  # a name that a field called `key` does not hide
from pywatt_host.manifest.problems import KeyPath, display_path
from pywatt_host.manifest.values import (
    Address,
    Format,
    Listen,
    SecretCapable,
    SecretTemplate,
    Sensitive,
    TcpListen,
    UnixAddress,
)
from pywatt_host.manifest.values.scalars import fault, text_of

TlsVersion: TypeAlias = Literal["1.2", "1.3"]
ClientCert: TypeAlias = Literal["required", "optional"]

_PEM_HINT = "write the name of a file, or ${secret:NAME} for a secret with the PEM text"


def _pem(value: Any) -> str | SecretTemplate:
    if isinstance(value, SecretTemplate):
        if any(isinstance(part, str) and part.strip() for part in value.parts):
            raise fault("pem", "the value mixes a secret with other text (write ${secret:NAME} and nothing else)")
        return value
    text = str(text_of(value, "a file name", "tls/server.pem"))
    if "-----BEGIN" in text or "\n" in text or "\0" in text:
        raise fault("pem", f"the value is not a file name ({_PEM_HINT})")
    if not text:
        raise fault("length", "the value is empty")
    return text


class SensitivePem(Sensitive):
    """Marks a value that is a secret where it has PEM text in place of the name of a file."""

    def shown(self, text: str) -> str:
        return "***" if self.secrets(text) else text

    def secrets(self, text: str) -> list[str]:
        return [text] if "-----BEGIN" in text else []


# A file, relative to the manifest; or a template of secrets, whose values are PEM text.
Pem: TypeAlias = Annotated[
    str | SecretTemplate,
    PlainValidator(_pem),
    PlainSerializer(str, when_used="json"),
    WithJsonSchema({"type": "string", "minLength": 1}),
    SecretCapable(),
    SensitivePem(),
    Format("a file name", _PEM_HINT),
]


class ServerTls(Section):
    """TLS settings of a listener: its certificate, and which clients it accepts. When a file or a secret changes, new
    connections get the new certificate."""

    together = (("client_cert", "client_ca"),)

    cert: Pem = required(
        "File with the certificate and its chain, PEM, relative to the manifest. `${secret:NAME}` is a secret with the"
        " PEM text itself.",
        "tls/server.pem",
        "${secret:TLS_CERT}",
    )
    key: Pem = required(
        "File with the private key of the certificate, PEM, not encrypted, relative to the manifest. `${secret:NAME}`"
        " is a secret with the PEM text itself.",
        "tls/server.key",
        "${secret:TLS_KEY}",
    )
    client_ca: Pem | None = _setting(
        None,
        "File with CA certificates, PEM, relative to the manifest; or `${secret:NAME}`. The host asks clients for a"
        " certificate, and accepts those that one of these has signed. If omitted, clients are not asked.",
        "tls/clients.pem",
    )
    client_cert: ClientCert | None = _setting(
        None,
        "Whether every client needs a certificate. `optional`: a client may have none, but one that is not valid is"
        " refused. If omitted: `required` where `client_ca` is given.",
        "optional",
    )
    min_version: TlsVersion = _setting("1.2", "Oldest version of TLS that a client may use.", "1.3")

    @model_validator(mode="after")
    def _clients(self) -> Self:
        if self.client_cert is not None and self.client_ca is None:
            raise PydanticCustomError(
                "conflict", "client_cert needs client_ca: the CA certificates that sign those of clients", {}
            )
        return self

    @property
    def demands(self) -> Literal["required", "optional", "none"]:
        """What clients have to show: `client_cert`, or its default."""
        if self.client_ca is None:
            return "none"
        return self.client_cert or "required"


class PublicTls(ServerTls):
    """TLS settings of the TCP listeners in `server.listen` that have none of their own."""

    redirect: TcpListen | None = _setting(
        None,
        "Address where the host answers plain HTTP: with a redirect (308) to the first TLS listener. If omitted,"
        " nothing answers plain HTTP.",
        ":8080",
    )


def _tls_kind(value: Any) -> str:
    return "settings" if isinstance(value, dict | Section) else "off"


# `off`, or the settings.
OwnTls: TypeAlias = Annotated[
    Annotated[Literal["off"], Tag("off")] | Annotated[ServerTls, Deferred(), Tag("settings")],
    Discriminator(_tls_kind),
]


class ListenOptions(Section):
    """A listener with TLS settings of its own."""

    address: Listen = required("Address of the listener.", ":8443")
    tls: OwnTls | None = _setting(
        None,
        "TLS settings of this listener, in place of `server.tls`. `off`: this listener is plain HTTP. If omitted,"
        " `server.tls`.",
        {"cert": "tls/internal.pem", "key": "tls/internal.key"},
        "off",
    )

    @model_validator(mode="after")
    def _no_unix(self) -> Self:
        if isinstance(self.address, UnixAddress) and isinstance(self.tls, ServerTls):
            raise PydanticCustomError("conflict", "a Unix socket has no TLS, so remove tls", {})
        return self


def _listener_kind(value: Any) -> str:
    options = isinstance(value, ListenOptions) or (
        isinstance(value, dict) and ("address" in value or ("tls" in value and "unix" not in value))
    )
    return "options" if options else "address"


# An address, or an address with TLS settings of its own.
Listener: TypeAlias = Annotated[
    Annotated[Listen, Tag("address")] | Annotated[ListenOptions, Deferred(), Tag("options")],
    Discriminator(_listener_kind),
]


def address_of(listener: Address | ListenOptions) -> Address:
    """The address of an entry of `server.listen`."""
    return listener.address if isinstance(listener, ListenOptions) else listener


class DeclaredTls(NamedTuple):
    """TLS settings and the place where a manifest has them. `key` shows the place, such as `server.listen[1].tls`."""

    key: str
    path: KeyPath
    tls: ServerTls


def declared(path: KeyPath, tls: ServerTls) -> DeclaredTls:
    """The TLS settings at a path."""
    return DeclaredTls(display_path(path), path, tls)
