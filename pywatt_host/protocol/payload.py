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
    """A JSON document or opaque bytes, kept as received and converted to the other form only when asked for.

    On the wire it is `{"data": [byte numbers], "format": ...}`, or `{"json": ...}` where both sides agreed on
    `inline_payload`.
    """

    __slots__ = ("_data", "_document", "format")

    def __init__(self, data: bytes | None, format: Format, document: Any = None) -> None:
        self._data = data
        self._document = document
        self.format = format

    @classmethod
    def of(cls, document: Any) -> Payload:
        """A payload that holds a JSON document."""
        return cls(None, "Json", document)

    @classmethod
    def read(cls, value: Any) -> Payload:
        """The payload in its object on the wire. Raises ProtocolError."""
        if value.__class__ is not dict:
            raise ProtocolError("message", "payload is not an object")
        if "json" in value:
            return cls(None, "Json", value["json"])
        format = value.get("format", "Auto")
        if format not in _FORMATS:
            raise ProtocolError("message", "payload.format is not one of Json, Binary, Base64, Auto")
        return cls(bytes_of(value.get("data"), "payload.data"), format)

    def _encoded(self) -> bytes:
        """The bytes of `data` on the wire: the text of a JSON document, base64 not decoded. Raises ProtocolError."""
        if self._data is None:
            self._data = dumps(self._document)
        return self._data

    def to_bytes(self) -> bytes:
        """The content as bytes: the text of a JSON document, base64 decoded. Raises ProtocolError."""
        data = self._encoded()
        if self.format != "Base64":
            return data
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise ProtocolError("message", "payload.data is not base64") from None

    @property
    def size(self) -> int:
        """The length of `data` in bytes, with base64 not decoded."""
        return len(self._encoded())

    def document(self) -> Any:
        """The content as a JSON document. Raises ProtocolError where it is not one."""
        if self._data is None:
            return self._document
        if self.format in ("Binary", "Base64"):
            raise ProtocolError("message", f"the payload is {self.format} and not a JSON document")
        return loads(self._data)

    def wire(self, *, inline: bool) -> dict[str, Any]:
        """Its object on the wire. Raises ProtocolError where the document cannot be written as JSON."""
        if inline and self.format == "Json":
            return {"json": self.document()}
        return {"data": list(self._encoded()), "format": self.format}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Payload) and self.format == other.format and self._encoded() == other._encoded()

    def __hash__(self) -> int:
        return hash((self.format, self._encoded()))

    def __repr__(self) -> str:
        return f"<Payload {self.format}>"


def bytes_of(value: Any, member: str) -> bytes:
    """A list of byte numbers as bytes. Raises ProtocolError."""
    if value.__class__ is not list:
        raise ProtocolError("message", f"{member} is not a list of byte numbers")
    try:
        return bytes(value)
    except (TypeError, ValueError):
        raise ProtocolError("message", f"{member} is not a list of byte numbers") from None


_ENVELOPE_MEMBERS = frozenset(("id", "content", "metadata"))


def is_envelope(document: Any) -> bool:
    """Whether receivers read a document as an envelope: an object with `content` and at least one of `id` and
    `metadata`, and nothing else."""
    return (
        document.__class__ is dict
        and "content" in document
        and len(document) > 1
        and document.keys() <= _ENVELOPE_MEMBERS
    )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A Message: content and metadata. The properties that this package uses are `deadline` (seconds since the epoch),
    `traceparent` and `tracestate` (W3C Trace Context), `request_id` and `authorization`."""

    content: Any = field(repr=False)
    properties: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None

    @classmethod
    def open(cls, document: Any) -> Envelope:
        """The envelope that a document is (see `is_envelope`), or an envelope around a document that is bare
        content."""
        if is_envelope(document):
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
        """The document to send: the bare content where the envelope adds nothing and the content cannot be taken for an
        envelope itself."""
        if not self.properties and self.id is None and not is_envelope(self.content):
            return self.content
        return {
            **({"id": self.id} if self.id is not None else {}),
            "content": self.content,
            "metadata": {"properties": dict(self.properties)},
        }

    @property
    def deadline(self) -> float | None:
        """Seconds since the epoch; None where there is no deadline, or one that is not a number."""
        value = self.properties.get("deadline")
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
