"""HTTP requests over a channel, and ports that the module may listen on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_body,
    read_boolean,
    read_integer,
    read_optional_integer,
    read_optional_string,
    read_string,
    read_string_map,
)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One whole HTTP request in one message. `uri` is the path with its query."""

    op: ClassVar[str] = "http_request"
    request_id: str
    method: str
    uri: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)

    @classmethod
    def read(cls, document: Document) -> HttpRequest:
        return cls(
            read_string(document, "request_id"),
            read_string(document, "method"),
            read_string(document, "uri"),
            read_string_map(document, "headers"),
            read_body(document),
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
            read_string(document, "request_id"),
            read_integer(document, "status_code", 100, 999),
            read_string_map(document, "headers"),
            read_body(document),
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
        return cls(read_string(document, "request_id"), read_optional_integer(document, "specific_port", 0, 65535))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "request_id": self.request_id, "specific_port": self.specific_port}


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
            read_string(document, "request_id"),
            read_boolean(document, "success"),
            read_optional_integer(document, "port", 0, 65535),
            read_optional_string(document, "error_message"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "request_id": self.request_id,
            "success": self.success,
            "port": self.port,
            "error_message": self.error_message,
        }
