"""`services`: what this module offers to others, and where those are whom nobody announces."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from pywatt_host.manifest.model.base import Section, key, required
from pywatt_host.manifest.model.channels import ClientTls
from pywatt_host.manifest.values import TCP_ADDRESS, SecretToken
from pywatt_host.manifest.values.scalars import fault, text_of

AUTO = "auto"
MODULE = "module"
SERVICE_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
SERVICE_ADDRESS = r"^\S{1,1024}$"
_PEER = re.compile(r"(unix:|tcp://|https?://)?(.+)", re.DOTALL)

Name: TypeAlias = Annotated[str, Field(pattern=SERVICE_NAME)]
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
    """A service that this module offers, wherever there is somebody to tell: an orchestrator, NATS."""

    name: Name = required("What it is called.", "users-api")
    type: Name = required("What kind of service it is, which is what others ask for.", "api")
    address: Address = key(
        AUTO, "Where it is. `auto`: the address that the module's HTTP listener really has.", "10.0.0.7:8080"
    )
    version: Annotated[str, Field(min_length=1, max_length=128)] | None = key(None, "Its version.", "1.4.0")
    metadata: Metadata = key(dict, "What else there is to say about it.", {"region": "eu"})


class StaticService(Section):
    """A service that is where it is: nobody announces it. Whether it is healthy is found out by connecting."""

    name: Name = required("What it is called; with `type: module`, the other module's id.", "billing")
    type: Name = required("What kind of service it is; `module` is a module that messages may be sent to.", "database")
    address: Address = required(
        "host:port, a URL or unix:PATH. With `type: module`: unix:PATH and tcp://HOST:PORT are where it takes channels"
        " (its channels.ipc.listen, channels.tcp.listen), http://HOST:PORT, https:// and HOST:PORT its HTTP listener.",
        "127.0.0.1:5432",
    )
    metadata: Metadata = key(dict, "What else there is to say about it.", {"region": "eu"})
    token: SecretToken | None = key(
        None,
        "With `type: module`: the token that is presented there. Left out: that of channels.tcp or channels.http.",
        "${secret:BILLING_TOKEN}",
    )
    tls: ClientTls | None = key(
        None, "With `type: module` and tcp:// or https://: TLS as a client.", {"ca": "tls/ca.pem"}
    )

    @model_validator(mode="after")
    def _peers(self) -> StaticService:
        if self.type != MODULE:
            for name in ("token", "tls"):
                if getattr(self, name) is not None:
                    raise PydanticCustomError("conflict", "it is for `type: module`", {"key": name})
            return self
        match = _PEER.match(self.address)
        assert match is not None
        scheme, rest = match[1] or "", match[2]
        named = scheme.startswith("http") and re.match(r"[A-Za-z0-9._-]+/?\Z", rest)
        if scheme != "unix:" and not named and not TCP_ADDRESS.match(rest.rstrip("/")):
            message = "a module is at unix:PATH, tcp://HOST:PORT, http://HOST:PORT or HOST:PORT"
            raise PydanticCustomError("address", message, {"key": "address"})
        if self.tls is not None and scheme not in ("tcp://", "https://"):
            raise PydanticCustomError("conflict", "it is for tcp:// and https://", {"key": "tls"})
        return self


class Services(Section):
    """What this module offers, and whom it knows."""

    register_: tuple[RegisteredService, ...] = Field(
        (),
        alias="register",
        description="Services that this module offers, registered once it listens and after each reconnect.",
        examples=[[{"name": "users-api", "type": "api"}]],
        strict=False,
    )
    static: tuple[StaticService, ...] = key(
        (),
        "Services that nobody announces.",
        [{"name": "main", "type": "database", "address": "127.0.0.1:5432"}],
        strict=False,
    )
    advertise: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,255}$")] | None = key(
        None,
        "Host name or IP address in addresses that are `auto`. Left out: that of the listener, or, where it listens on"
        " every interface, the one of this machine that leads to NATS or the orchestrator.",
        "${POD_IP}",
    )
