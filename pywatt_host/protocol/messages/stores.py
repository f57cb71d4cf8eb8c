"""Databases and caches of the orchestrator: a connection to one, and operations on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_boolean,
    read_optional_string,
    read_service_type,
    read_string,
    wire_service_type,
    with_request_id,
)


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """Asks for a connection to a store of the orchestrator."""

    op: ClassVar[str] = "service_request"
    id: str
    service_type: str
    config: Any = field(default=None, repr=False)

    @classmethod
    def read(cls, document: Document) -> ServiceRequest:
        return cls(read_string(document, "id"), read_service_type(document), document.get("config"))

    def wire(self, extensions: Extensions) -> Document:
        service_type = wire_service_type(self.service_type)
        return {"op": self.op, "id": self.id, "service_type": service_type, "config": self.config}


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
            read_string(document, "id"),
            read_service_type(document),
            read_boolean(document, "success"),
            read_optional_string(document, "error"),
            read_optional_string(document, "connection_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        return {
            "op": self.op,
            "id": self.id,
            "service_type": wire_service_type(self.service_type),
            "success": self.success,
            "error": self.error,
            "connection_id": self.connection_id,
        }


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
            read_string(document, "connection_id"),
            read_service_type(document),
            read_string(document, "operation"),
            document.get("params"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {
            "op": self.op,
            "connection_id": self.connection_id,
            "service_type": wire_service_type(self.service_type),
            "operation": self.operation,
            "params": self.params,
        }
        return with_request_id(document, self.request_id, extensions)


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
            read_boolean(document, "success"),
            document.get("result"),
            read_optional_string(document, "error"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": self.op, "success": self.success, "result": self.result, "error": self.error}
        return with_request_id(document, self.request_id, extensions)
