"""The orchestrator on standard input and output: private descriptors, the handshake, then lines of JSON."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import time
from dataclasses import dataclass

from pywatt_host.channels.wire import PipeEnd, Wire
from pywatt_host.exceptions import ChannelError, ProtocolError
from pywatt_host.protocol.codec import HANDSHAKE_LIMIT, read
from pywatt_host.protocol.messages import Init

_READ_SIZE = 65536  # bytes


@dataclass(frozen=True, slots=True)
class Descriptors:
    """The file descriptors of the protocol, once the application has 0 and 1 for itself."""

    reading: int
    writing: int


@dataclass(frozen=True, slots=True)
class Handshake:
    """The orchestrator's init message, and the bytes that arrived behind it. `supervised`: the other side is not an
    orchestrator but the supervisor of this worker, and the descriptors are those of a socket between the two."""

    init: Init
    rest: bytes
    descriptors: Descriptors
    supervised: bool = False


def private_descriptors() -> Descriptors:
    """Move the protocol from the descriptors 0 and 1 to private ones, which child processes do not inherit. Whatever
    the application, its libraries or its children print goes to standard error then, and standard input is empty."""
    reading, writing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return Descriptors(reading, writing)


def handshake(descriptors: Descriptors, timeout: float) -> Handshake:
    """Wait for the init line. Raises ProtocolError where it does not arrive within `timeout` seconds, is longer than
    1 MiB, or is not an init message."""
    deadline = time.monotonic() + timeout
    pieces: list[bytes] = []
    length = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select((descriptors.reading,), (), (), left)[0]:
            raise ProtocolError(
                "handshake", f"no init from the orchestrator within {timeout:g}s (channels.limits.handshake)"
            )
        piece = os.read(descriptors.reading, _READ_SIZE)
        if not piece:
            raise ProtocolError("handshake", "standard input ended before the orchestrator's init")
        head, end, rest = piece.partition(b"\n")
        length += len(head)
        if length > HANDSHAKE_LIMIT:
            raise ProtocolError("handshake", "the orchestrator's first line is longer than 1 MiB")
        pieces.append(head)
        if end:
            return Handshake(_init(b"".join(pieces)), rest, descriptors)


def _init(line: bytes) -> Init:
    try:
        message = read(line)
    except ProtocolError as error:
        raise ProtocolError("handshake", f"the orchestrator's first line is not an init message: {error}") from None
    if not isinstance(message, Init):
        raise ProtocolError("handshake", f"the orchestrator's first line is {message.op[:40]!r} and not init")
    return message


async def open_stdio(handshake: Handshake, wire: Wire) -> None:
    """Connect the wire to the descriptors of the handshake. Raises ChannelError where they are not pipes, sockets or
    terminals."""
    loop = asyncio.get_running_loop()
    descriptors = handshake.descriptors
    if _is_one_socket(descriptors):
        await _open_socket(handshake, wire)
        return
    # Checked first: an event loop that is given a file may end the whole process.
    for name, descriptor in (("input", descriptors.reading), ("output", descriptors.writing)):
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)):
            why = f"standard {name} is a file; the protocol needs a pipe, a socket or a terminal"
            raise ChannelError("stdio", "", why)
    try:
        writer, _ = await loop.connect_write_pipe(
            lambda: PipeEnd(wire), os.fdopen(descriptors.writing, "wb", buffering=0)
        )
        wire.write_to(writer)
        if handshake.rest:
            wire.data_received(handshake.rest)
        await loop.connect_read_pipe(lambda: wire, os.fdopen(descriptors.reading, "rb", buffering=0))
    except (OSError, ValueError) as error:
        raise ChannelError("stdio", "", f"standard input and output cannot be used: {error}") from error


def _is_one_socket(descriptors: Descriptors) -> bool:
    """Whether both descriptors are the same socket. As two pipes they would not work: event loops read from the writing
    end of a pipe to notice its end, and what they read there would be lost."""
    reading, writing = os.fstat(descriptors.reading), os.fstat(descriptors.writing)
    return stat.S_ISSOCK(reading.st_mode) and (reading.st_dev, reading.st_ino) == (writing.st_dev, writing.st_ino)


async def _open_socket(handshake: Handshake, wire: Wire) -> None:
    sock = socket.socket(fileno=handshake.descriptors.reading)
    os.close(handshake.descriptors.writing)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: wire, sock)
    except (OSError, ValueError) as error:
        sock.close()
        raise ChannelError("stdio", "", f"standard input and output cannot be used: {error}") from error
    if handshake.rest:
        wire.data_received(handshake.rest)
