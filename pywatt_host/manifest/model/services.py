"""`services`: the services that this module offers, and services at fixed addresses that do not announce themselves."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Kind, Kinds, Section, key, required
from pywatt_host.manifest.model.channels import ClientTls
from pywatt_host.manifest.values import TCP_ADDRESS, Format, SecretToken
from pywatt_host.manifest.values.scalars import SPACE, fault, text_of

AUTO = "auto"
MODULE = "module"
SERVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
SERVICE_ADDRESS = rf"^[^{SPACE}]{{1,1024}}$"
_PEER = re.compile(r"(unix:|tcp://|https?://)?(.+)", re.DOTALL)

Name: TypeAlias = Annotated[
    str,
    Field(pattern=SERVICE_NAME),
    Format(
        "a name",
        "use letters, digits, dots, dashes and underscores; start with a letter or a digit; at most 128 characters",
    ),
]
AdvertisedHost: TypeAlias = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._:-]{1,255}$"),
    Format("a host name or IP address", "write only the host, without a port"),
]
Metadata: TypeAlias = dict[Annotated[str, Field(min_length=1, max_length=128)], Annotated[str, Field(max_length=1024)]]


def _address(value: object) -> str:
    text = text_of(value, "an address", "127.0.0.1:5432")
    if not re.match(SERVICE_ADDRESS + r"\Z", text):
        raise fault("address", '"{text}" is not an address (write host:port, a URL or unix:PATH)', text=text[:80])
    return text


Address: TypeAlias = Annotated[
    str, PlainValidator(_address), PlainSerializer(str), WithJsonSchema({"type": "string", "pattern": SERVICE_ADDRESS})
]


class RegisteredService(Section):
    """A service that this module offers. It is registered with the orchestrator and on NATS, if they exist."""

    name: Name = required("Name of the service.", "users-api")
    type: Name = required("Type of the service, which other modules search for.", "api")
    address: Address = key(
        AUTO,
        "Address of the service. `auto`: the address that the module's HTTP listener is bound to.",
        "10.0.0.7:8080",
    )
    version: Annotated[str, Field(min_length=1, max_length=128)] | None = key(None, "Version of the service.", "1.4.0")
    metadata: Metadata = key(dict, "Additional information about the service.", {"region": "eu"})


class StaticService(Section):
    """A service at a fixed address that does not announce itself. The module connects to it to learn whether it is
    healthy."""

    kinds = Kinds(
        # A text with a variable in it may turn out to be `module`.
        (Kind("type", pattern=r"^(?!module$)(?!.*\$\{)", without=frozenset(("token", "tls"))),)
    )

    name: Name = required("Name of the service. With `type: module`, the id of the other module.", "billing")
    type: Name = required("Type of the service. `module` means a module that messages can be sent to.", "database")
    address: Address = required(
        "Address of the service: host:port, a URL or unix:PATH. With `type: module`, unix:PATH and tcp://HOST:PORT"
        " are the module's channels (its channels.ipc.listen, channels.tcp.listen), and http://HOST:PORT, https://"
        " and HOST:PORT are its HTTP listener.",
        "127.0.0.1:5432",
    )
    metadata: Metadata = key(dict, "Additional information about the service.", {"region": "eu"})
    token: SecretToken | None = key(
        None,
        "With `type: module`: the token to present to that module. If omitted, the token of channels.tcp or"
        " channels.http.",
        "${secret:BILLING_TOKEN}",
    )
    tls: ClientTls | None = key(
        None, "With `type: module` and tcp:// or https://: the TLS settings of the client.", {"ca": "tls/ca.pem"}
    )

    @model_validator(mode="after")
    def _peers(self) -> StaticService:
        if self.type != MODULE:
            for name in ("token", "tls"):
                if getattr(self, name) is not None:
                    raise PydanticCustomError("conflict", "this key is only for `type: module`", {"key": name})
            return self
        match = _PEER.match(self.address)
        assert match is not None
        scheme, rest = match[1] or "", match[2]
        named = scheme.startswith("http") and re.match(r"[A-Za-z0-9._-]+/?\Z", rest)
        if scheme != "unix:" and not named and not TCP_ADDRESS.match(rest.rstrip("/")):
            message = "the address of a module must be unix:PATH, tcp://HOST:PORT, http://HOST:PORT or HOST:PORT"
            raise PydanticCustomError("address", message, {"key": "address"})
        if self.tls is not None and scheme not in ("tcp://", "https://"):
            raise PydanticCustomError("conflict", "this key is only for tcp:// and https://", {"key": "tls"})
        return self


class Services(Section):
    """The services that this module offers, and the services at fixed addresses that it knows."""

    register_: tuple[RegisteredService, ...] = Field(
        (),
        alias="register",
        description="Services that this module offers. It registers them once it listens, and again after each"
        " reconnect.",
        examples=[[{"name": "users-api", "type": "api"}]],
        strict=False,
    )
    static: tuple[StaticService, ...] = key(
        (),
        "Services at fixed addresses that do not announce themselves.",
        [{"name": "main", "type": "database", "address": "127.0.0.1:5432"}],
        strict=False,
    )
    advertise: AdvertisedHost | None = key(
        None,
        "Host name or IP address for addresses that are `auto`. If omitted, the host of the listener. If the"
        " listener is on every interface, the address of this machine on the route to NATS or the orchestrator.",
        "${POD_IP}",
    )
