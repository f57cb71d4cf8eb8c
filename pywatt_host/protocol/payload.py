"""What modules say to each other: the payload of a routed message, and the envelope around its content."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.jsontext import dumps, loads

Format: TypeAlias = Literal["Json", "Binary", "Base64", "Auto"]

_FORMATS = ("Json", "Binary", "Base64", "Auto")


class Payload:
    """A JSON document or opaque octets, kept as it came until somebody wants it in the other form.

    On the wire `{"data": [byte numbers], "format": ...}`, or `{"json": ...}` where both sides agreed on
    `inline_payload`.
    """

    __slots__ = ("_document", "_octets", "format")

    def __init__(self, octets: bytes | None, format: Format, document: Any = None) -> None:
        self._octets = octets
        self._document = document
        self.format = format

    @classmethod
    def of(cls, document: Any) -> Payload:
        """A JSON document."""
        return cls(None, "Json", document)

    @classmethod
    def read(cls, value: Any) -> Payload:
        """From the wire. Raises ProtocolError."""
        if value.__class__ is not dict:
            raise ProtocolError("message", "payload is not an object")
        if "json" in value:
            return cls(None, "Json", value["json"])
        format = value.get("format", "Auto")
        if format not in _FORMATS:
            raise ProtocolError("message", "payload.format is not one of Json, Binary, Base64, Auto")
        return cls(octets_of(value.get("data"), "payload.data"), format)

    def _sent(self) -> bytes:
        """The octets of `data`: a JSON document as its text, base64 as it stands. Raises ProtocolError."""
        if self._octets is None:
            self._octets = dumps(self._document)
        return self._octets

    @property
    def octets(self) -> bytes:
        """The content as octets: a JSON document as its text, base64 decoded. Raises ProtocolError."""
        data = self._sent()
        if self.format != "Base64":
            return data
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise ProtocolError("message", "payload.data is not base64") from None

    @property
    def size(self) -> int:
        """Its octets as they came, base64 not decoded."""
        return len(self._sent())

    def document(self) -> Any:
        """The content as a JSON document. Raises ProtocolError where it is none."""
        if self._octets is None:
            return self._document
        if self.format in ("Binary", "Base64"):
            raise ProtocolError("message", f"the payload is {self.format}, where a JSON document is wanted")
        return loads(self._octets)

    def wire(self, *, inline: bool) -> dict[str, Any]:
        """Its object on the wire. Raises ProtocolError where the document has no JSON form."""
        if inline and self.format == "Json":
            return {"json": self.document()}
        return {"data": list(self._sent()), "format": self.format}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self.format == other.format and self._sent() == other._sent()

    def __hash__(self) -> int:
        return hash((self.format, self._sent()))

    def __repr__(self) -> str:
        return f"<Payload {self.format}>"


def octets_of(value: Any, member: str) -> bytes:
    """Byte numbers as octets. Raises ProtocolError."""
    if value.__class__ is not list:
        raise ProtocolError("message", f"{member} is not a list of byte numbers")
    try:
        return bytes(value)
    except (TypeError, ValueError):
        raise ProtocolError("message", f"{member} is not a list of byte numbers") from None


_MEMBERS = frozenset(("id", "content", "metadata"))


def looks_sealed(document: Any) -> bool:
    """Whether a document is read as an envelope."""
    return document.__class__ is dict and "content" in document and len(document) > 1 and document.keys() <= _MEMBERS


@dataclass(frozen=True, slots=True)
class Envelope:
    """A Message: content and metadata. The properties that we use are `deadline` (seconds since the epoch),
    `traceparent` (W3C Trace Context) and `request_id`."""

    content: Any = field(repr=False)
    properties: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    @classmethod
    def open(cls, document: Any) -> Envelope:
        """The envelope that a document is, or one around bare content: an object that has a `content` and nothing else
        but `id` and `metadata`, of which it has at least one."""
        if looks_sealed(document):
            metadata = document.get("metadata")
            properties = metadata.get("properties") if metadata.__class__ is dict else None
            id = document.get("id")
            return cls(
                document["content"],
                properties if properties.__class__ is dict else {},
                id if id.__class__ is str else None,
            )
        return cls(document)

    def seal(self) -> Any:
        """The document: bare content where there is nothing else to say, and it could not be taken for an envelope."""
        if not self.properties and self.id is None and not looks_sealed(self.content):
            return self.content
        return {
            **({"id": self.id} if self.id is not None else {}),
            "content": self.content,
            "metadata": {"properties": dict(self.properties)},
        }

    @property
    def deadline(self) -> float | None:
        """Seconds since the epoch; None where none was given, or none that is a number."""
        value = self.properties.get("deadline")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
