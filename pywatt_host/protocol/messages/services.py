"""Service providers: register one, take it back, and discover those of other modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_boolean,
    read_optional_string,
    read_service_type,
    read_string,
    read_string_map,
    wire_service_type,
    with_request_id,
    wrong_member,
)


@dataclass(frozen=True, slots=True)
class Register:
    """Registers this module as a provider of a service."""

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
            read_service_type(document),
            read_string(document, "name"),
            read_string(document, "address"),
            read_optional_string(document, "version"),
            None if document.get("metadata") is None else read_string_map(document, "metadata"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {
            "op": self.op,
            "service_type": wire_service_type(self.service_type),
            "name": self.name,
            "version": self.version,
            "address": self.address,
            "metadata": None if self.metadata is None else dict(self.metadata),
        }
        return with_request_id(document, self.request_id, extensions)


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
            read_boolean(document, "success"),
            read_optional_string(document, "provider_id"),
            read_optional_string(document, "error"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "success": self.success, "provider_id": self.provider_id, "error": self.error}
        return with_request_id(document, self.request_id, extensions)


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
            raise wrong_member("providers", "a list of objects")
        return cls(
            read_string(document, "provider_id"),
            read_string(document, "module_id"),
            read_service_type(document),
            read_string(document, "name"),
            read_optional_string(document, "version"),
            read_string(document, "address"),
            read_string_map(document, "metadata"),
            read_boolean(document, "is_healthy", True),
        )

    def wire(self) -> Document:
        return {
            "provider_id": self.provider_id,
            "module_id": self.module_id,
            "service_type": wire_service_type(self.service_type),
            "name": self.name,
            "version": self.version,
            "address": self.address,
            "metadata": dict(self.metadata),
            "is_healthy": self.is_healthy,
        }


@dataclass(frozen=True, slots=True)
class Discover:
    """Asks for the providers of a service: the first healthy one, or all of them (`all_providers`)."""

    op: ClassVar[str] = "discover_service_providers"
    service_type: str
    all_providers: bool | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> Discover:
        wanted = None if document.get("all_providers") is None else read_boolean(document, "all_providers")
        return cls(read_service_type(document), wanted, read_optional_string(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        document: Document = {
            "op": self.op,
            "service_type": wire_service_type(self.service_type),
            "all_providers": self.all_providers,
        }
        return with_request_id(document, self.request_id, extensions)


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
            raise wrong_member("providers", "a list of objects")
        return cls(
            read_boolean(document, "success"),
            tuple(Provider.read(each) for each in found or ()),
            read_optional_string(document, "error"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        providers = [each.wire() for each in self.providers]
        document = {"op": self.op, "success": self.success, "providers": providers, "error": self.error}
        return with_request_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Deregister:
    """Extension `deregister`: the module no longer provides a service. There is no answer."""

    op: ClassVar[str] = "deregister_service_provider"
    provider_id: str

    @classmethod
    def read(cls, document: Document) -> Deregister:
        return cls(read_string(document, "provider_id"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": self.op, "provider_id": self.provider_id}
