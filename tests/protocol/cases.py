"""The conformance vectors as objects: documents of the wire, and the messages that they are.

One file for each operation in `vectors/`, written from the tables of the protocol. `sent`: what a message is on the
wire where the peer agreed on `extensions` (`lossy`: the peer is not told all of it). `accepted`: documents that all are
one message. `refused`: documents, and what the error says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.protocol.messages import (
    MESSAGES,
    AnnouncedEndpoint,
    IpcChannelOffer,
    Message,
    Provider,
    TcpChannelOffer,
)
from pywatt_host.protocol.payload import Payload

HERE = Path(__file__).parent
CLASSES: dict[str, Any] = {message.op: message for message in MESSAGES}


@dataclass(frozen=True, slots=True)
class Sent:
    name: str
    message: Message
    extensions: frozenset[str]
    document: Any
    lossy: bool


@dataclass(frozen=True, slots=True)
class Accepted:
    name: str
    document: Any
    message: Message


@dataclass(frozen=True, slots=True)
class Refused:
    name: str
    document: Any
    error: str


def files() -> dict[str, Any]:
    """Every file of vectors by its operation."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted((HERE / "vectors").glob("*.json"))}


def byte_cases() -> Any:
    """Vectors of the framings, and of units that are no operation."""
    return json.loads((HERE / "bytes.json").read_text("utf-8"))


def sent() -> list[Sent]:
    return [
        Sent(
            f"{op}: {each['why']}",
            message_from(op, each["message"]),
            frozenset(each.get("extensions", ())),
            each["document"],
            each.get("lossy", False),
        )
        for op, file in files().items()
        for each in file["sent"]
    ]


def accepted() -> list[Accepted]:
    return [
        Accepted(f"{op}: {each['why']} ({number})", document, message_from(op, each["message"]))
        for op, file in files().items()
        for each in file["accepted"]
        for number, document in enumerate(each["documents"])
    ]


def refused() -> list[Refused]:
    return [
        Refused(f"{op}: {each['why']}", each["document"], each["error"])
        for op, file in files().items()
        for each in file["refused"]
    ]


def documents() -> Iterator[Any]:
    """Every document there is."""
    for group in (sent(), accepted(), refused()):
        for case in group:
            yield case.document


def message_from(op: str, members: dict[str, Any]) -> Message:
    """A message from its members as JSON can say them."""
    message: Message = CLASSES[op](**{name: _member(name, value) for name, value in members.items()})
    return message


def _member(name: str, value: Any) -> Any:
    match name, value:
        case "payload", {"document": document}:
            return Payload.of(document)
        case "payload", {"data": data, "format": format}:
            return Payload(data.encode("latin-1"), format)
        case (("body" | "encoded"), str()):
            return value.encode("latin-1")
        case "providers", list():
            return tuple(Provider(**each) for each in value)
        case "endpoints", list():
            return tuple(AnnouncedEndpoint(**{**each, "methods": tuple(each["methods"])}) for each in value)
        case "tcp_channel", dict():
            return TcpChannelOffer(**value)
        case "ipc_channel", dict():
            return IpcChannelOffer(**value)
        case (("keys" | "extensions"), list()):
            return tuple(value)
    return value
