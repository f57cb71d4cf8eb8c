"""Secrets that the orchestrator holds, and their rotation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from pywatt_host.protocol.messages.members import (
    Document,
    Extensions,
    read_optional_string,
    read_string,
    read_strings,
    with_request_id,
)


@dataclass(frozen=True, slots=True)
class GetSecret:
    """Asks for a secret by its name. Where `request_id` was not agreed on, the answer is correlated by that name."""

    op: ClassVar[str] = "get_secret"
    name: str
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> GetSecret:
        return cls(read_string(document, "name"), read_optional_string(document, "request_id"))

    def wire(self, extensions: Extensions) -> Document:
        return with_request_id({"op": "get_secret", "name": self.name}, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class SecretValue:
    """The answer to `get_secret`."""

    op: ClassVar[str] = "secret"
    name: str
    value: str = field(repr=False)
    rotation_id: str | None = None
    request_id: str | None = None

    @classmethod
    def read(cls, document: Document) -> SecretValue:
        return cls(
            read_string(document, "name"),
            read_string(document, "value"),
            read_optional_string(document, "rotation_id"),
            read_optional_string(document, "request_id"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "secret", "name": self.name, "value": self.value}
        if self.rotation_id is not None:
            document["rotation_id"] = self.rotation_id
        return with_request_id(document, self.request_id, extensions)


@dataclass(frozen=True, slots=True)
class Rotated:
    """Tells that these secrets have new values. The module fetches them again and acknowledges the rotation once."""

    op: ClassVar[str] = "rotated"
    keys: tuple[str, ...]
    rotation_id: str

    @classmethod
    def read(cls, document: Document) -> Rotated:
        return cls(read_strings(document, "keys"), read_string(document, "rotation_id"))

    def wire(self, extensions: Extensions) -> Document:
        return {"op": "rotated", "keys": list(self.keys), "rotation_id": self.rotation_id}


@dataclass(frozen=True, slots=True)
class RotationAck:
    """Tells, once for each rotation, whether the module uses the new values. `status` is `success` or `error`."""

    op: ClassVar[str] = "rotation_ack"
    rotation_id: str
    status: str
    message: str | None = None

    @classmethod
    def read(cls, document: Document) -> RotationAck:
        return cls(
            read_string(document, "rotation_id"),
            read_string(document, "status"),
            read_optional_string(document, "message"),
        )

    def wire(self, extensions: Extensions) -> Document:
        document = {"op": "rotation_ack", "rotation_id": self.rotation_id, "status": self.status}
        if self.message is not None:
            document["message"] = self.message
        return document
