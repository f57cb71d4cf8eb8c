"""The two framings: lines of JSON (stdio), and frames with a length and a format (Unix sockets and TCP).

A decoder takes bytes in pieces of any size and gives whole units. It keeps the bytes that have arrived and never
allocates memory for a length that a header only claims. An encoder gives the bytes of one message.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import orjson

from pywatt_host.exceptions import ProtocolError
from pywatt_host.manifest.values import format_size
from pywatt_host.protocol.jsontext import loads
from pywatt_host.protocol.messages import Extensions, Message, Received, message_of

HANDSHAKE_LIMIT = 1024**2  # bytes, for the line with `init`
STRANGER_LIMIT = 64 * 1024  # bytes, for a frame of a peer that has not identified itself

_HEADER = struct.Struct(">IB")
_JSON = 1
_NAMES = {2: "binary", 3: "base64"}

Encode: TypeAlias = Callable[[Message, Extensions], bytes]


class Decoder(Protocol):
    """Bytes in pieces of any size to whole units. Raises ProtocolError where the stream cannot go on."""

    def feed(self, data: bytes) -> list[bytes]: ...


class Lines:
    """Units that end with a line feed; other characters that Unicode takes for line ends are content."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rest = bytearray()  # one buffer, so that a line in many pieces costs memory for its own length only

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now, without their line feeds and without empty ones. Raises ProtocolError for a
        line that is longer than the limit, as soon as that is seen."""
        if b"\n" not in data:
            self._keep(data)
            return []
        *whole, rest = data.split(b"\n")
        if self._rest:
            whole[0] = b"".join((self._rest, whole[0]))
            self._rest = bytearray()
        for line in whole:
            if len(line) > self.limit:
                raise _too_large(self.limit)
        self._keep(rest)
        return [line for line in whole if line and not line.isspace()]

    def _keep(self, piece: bytes) -> None:
        if len(self._rest) + len(piece) > self.limit:
            raise _too_large(self.limit)
        self._rest += piece


class Frames:
    """Units with a header: 4 bytes for the length of the payload (big-endian), 1 byte for the format, then the payload.

    With `stranger` the limit is small until `admit` is called. Frames that arrive in the same piece as the first one
    are measured by the full limit, since a peer need not wait for the answer to its `identify`.
    """

    def __init__(self, limit: int, *, stranger: bool = False) -> None:
        self.limit = min(limit, STRANGER_LIMIT) if stranger else limit
        self._full_limit = limit
        self._rest = bytearray()
        self._need = _HEADER.size  # bytes until there is something to decide

    def feed(self, data: bytes) -> list[bytes]:
        """The JSON payloads that are complete now. Raises ProtocolError for a frame that is too long (known from its
        header alone) or whose format is not JSON."""
        if len(self._rest) + len(data) < self._need:
            if self._need > self.limit + _HEADER.size:  # of a stranger that was not admitted meanwhile
                raise self._refused()
            self._rest += data
            return []
        if self._rest:
            data = b"".join((self._rest, data))
            self._rest = bytearray()
        units: list[bytes] = []
        at, end = 0, len(data)
        self._need = _HEADER.size
        while end - at >= _HEADER.size:
            length, format = _HEADER.unpack_from(data, at)
            if length > self.limit and (not units or length > self._full_limit):
                raise self._refused()
            if format != _JSON:
                raise _wrong_format(format)
            start = at + _HEADER.size
            if end - start < length:
                self._need = _HEADER.size + length
                break
            at = start + length
            units.append(data[start:at])
        self._rest += data[at:]
        return units

    def admit(self) -> None:
        """The peer has identified itself: from now on it may send frames up to the full limit."""
        self.limit = self._full_limit

    def _refused(self) -> ProtocolError:
        if self.limit == self._full_limit:
            return _too_large(self.limit)
        return ProtocolError("too-large", f"a message is longer than {format_size(self.limit)}, before identify")


def _too_large(limit: int) -> ProtocolError:
    return ProtocolError("too-large", f"a message is longer than {format_size(limit)} (channels.limits.frame)")


def _wrong_format(format: int) -> ProtocolError:
    if format == 0:
        return ProtocolError(
            "format",
            "a frame has the format 0, which does not exist (1 JSON, 2 binary, 3 base64); Python modules of the"
            " original number them 0 JSON, 1 msgpack",
        )
    name = f"{format} ({_NAMES[format]})" if format in _NAMES else str(format)
    return ProtocolError("format", f"a frame has the format {name}; operations are JSON, which is 1")


def read(unit: bytes) -> Received:
    """The message that a unit holds. Raises ProtocolError."""
    return message_of(loads(unit))


def line(message: Message, extensions: Extensions) -> bytes:
    """A message as a line."""
    return _dumps(message.wire(extensions), orjson.OPT_APPEND_NEWLINE)


def frame(message: Message, extensions: Extensions) -> bytes:
    """A message from an orchestrator as a frame: the bare operation."""
    return _framed(_dumps(message.wire(extensions)))


class EnvelopeFrames:
    """Messages from a module as frames, each in a Message envelope with an id of its own (a UUID, RFC 9562)."""

    def __init__(self) -> None:
        self._ids = Ids()

    def __call__(self, message: Message, extensions: Extensions) -> bytes:
        return _framed(_dumps({"id": self._ids(), "content": message.wire(extensions), "metadata": {}}))


class Ids:
    """UUIDs of version 8 (RFC 9562, section 5.8): a random part for each instance, and a counter."""

    def __init__(self) -> None:
        digits = os.urandom(10).hex()
        self._prefix = f"{digits[:8]}-{digits[8:12]}-8{digits[12:15]}-a{digits[15:18]}-"
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count:012x}"

    def gave(self, id: str) -> bool:
        """Whether an id is one of this instance's."""
        return id.startswith(self._prefix)


def _dumps(document: Any, option: int = 0) -> bytes:
    try:
        return orjson.dumps(document, option=option)
    except TypeError as error:
        raise ProtocolError("json", f"the content cannot be written as JSON: {error}") from None


def _framed(payload: bytes) -> bytes:
    return _HEADER.pack(len(payload), _JSON) + payload
