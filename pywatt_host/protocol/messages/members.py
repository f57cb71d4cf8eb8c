"""Reading and writing the members of a message's JSON object. Each reader raises ProtocolError naming the member."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, TypeAlias

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol.payload import bytes_of

EXTENSIONS = frozenset(
    {"request_id", "error", "inline_payload", "target_endpoint", "health", "drain", "events", "deregister"}
)

Extensions: TypeAlias = Set[str]
Document: TypeAlias = dict[str, Any]

_SERVICE_TYPES = {"database": "Database", "cache": "Cache", "jwt": "Jwt"}


def wrong_member(member: str, wanted: str) -> ProtocolError:
    """The error for a member that is not what the protocol asks for."""
    return ProtocolError("message", f"{member} is not {wanted}")


def read_string(document: Document, member: str) -> str:
    """A required string."""
    value = document.get(member)
    if value.__class__ is not str:
        raise wrong_member(member, "a string")
    return value


def read_optional_string(document: Document, member: str) -> str | None:
    """A string; None where the member is missing or null."""
    value = document.get(member)
    if value is not None and value.__class__ is not str:
        raise wrong_member(member, "a string")
    return value


def read_boolean(document: Document, member: str, default: bool = False) -> bool:
    """A boolean; `default` where the member is missing or null."""
    value = document.get(member)
    if value is None:
        return default
    if value.__class__ is not bool:
        raise wrong_member(member, "true or false")
    return value


def read_integer(document: Document, member: str, low: int, high: int) -> int:
    """A required integer from `low` to `high`, both included."""
    value = document.get(member)
    if value.__class__ is not int or not low <= value <= high:
        raise wrong_member(member, f"a number from {low} to {high}")
    return value


def read_optional_integer(document: Document, member: str, low: int, high: int) -> int | None:
    """As `read_integer`; None where the member is missing or null."""
    return None if document.get(member) is None else read_integer(document, member, low, high)


def read_strings(document: Document, member: str) -> tuple[str, ...]:
    """A list of strings; empty where the member is missing or null."""
    value = document.get(member)
    if value is None:
        return ()
    if value.__class__ is not list or any(item.__class__ is not str for item in value):
        raise wrong_member(member, "a list of strings")
    return tuple(value)


def read_string_map(document: Document, member: str) -> dict[str, str]:
    """An object whose values are strings; empty where the member is missing or null."""
    value = document.get(member)
    if value is None:
        return {}
    if value.__class__ is not dict or any(item.__class__ is not str for item in value.values()):
        raise wrong_member(member, "an object of strings")
    return dict(value)


def read_body(document: Document) -> bytes | None:
    """The bytes of `body`, a list of byte numbers; None where it is missing or null."""
    value = document.get("body")
    return None if value is None else bytes_of(value, "body")


def read_object(document: Document, member: str) -> Document | None:
    """An object; None where the member is missing or null."""
    value = document.get(member)
    if value is not None and value.__class__ is not dict:
        raise wrong_member(member, "an object")
    return value


def service_type_of(text: str) -> str:
    """A service type as messages name it: `database`, `cache` and `jwt`, in any case, are the protocol's own types;
    every other text is a custom type and stays as it is.

    >>> service_type_of("DATABASE"), service_type_of("search")
    ('Database', 'search')
    """
    return _SERVICE_TYPES.get(text.lower(), text)


def read_service_type(document: Document) -> str:
    """The `service_type`: one of the protocol's own, or the name within `{"Custom": name}`."""
    value = document.get("service_type")
    if value.__class__ is dict and len(value) == 1 and value.get("Custom").__class__ is str:
        return str(value["Custom"])
    if value.__class__ is str:
        return service_type_of(value)
    raise wrong_member("service_type", 'Database, Cache, Jwt or {"Custom": name}')


def wire_service_type(text: str) -> str | dict[str, str]:
    """The value of `service_type` for the wire; the inverse of `read_service_type`."""
    return text if text in _SERVICE_TYPES.values() else {"Custom": text}


def read_address(value: Any, member: str) -> str:
    """`IP:port` or an absolute path, from `{"Unix": path}`, `{"Tcp": address}` or a plain string."""
    if value.__class__ is dict and len(value) == 1:
        ((kind, value),) = value.items()
        if kind not in ("Unix", "Tcp"):
            raise wrong_member(member, "an address")
    if value.__class__ is not str or not value:
        raise wrong_member(member, "an address")
    return str(value)


def with_request_id(document: Document, request_id: str | None, extensions: Extensions) -> Document:
    """The document with its `request_id`, where there is one and both sides agreed on the extension of that name."""
    if request_id is not None and "request_id" in extensions:
        document["request_id"] = request_id
    return document
