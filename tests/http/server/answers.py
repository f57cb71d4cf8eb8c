"""Reads the responses of a connection as strictly as RFC 9112 allows, and a client that sends bytes as they are."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

PATIENCE = 8.0  # seconds until a test fails that waits for bytes
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t -~]*").fullmatch
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9a-z-]+): ([\t -~\x80-\xff]*)").fullmatch


class NoAnswerError(AssertionError):
    """The bytes are not a response, or not a whole one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `whole`: its end has arrived; `framing` is what tells that: `none`, `length`, `chunked` or `end`."""

    status: int
    fields: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool
    framing: str

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]


def read_answers(data: bytes, bodiless: Sequence[bool] = (), *, ended: bool = True) -> list[Answer]:
    """All responses in `data`. `bodiless` says which of the final ones answer HEAD. Raises NoAnswerError."""
    found: list[Answer] = []
    finals = 0
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        if not mark:
            raise NoAnswerError(f"a head without an end: {data!r}")
        status, fields = _head(head)
        if status < 200:
            found.append(Answer(status, fields, b"", True, "none"))
            data = rest
            continue
        without = status in (204, 304) or (finals < len(bodiless) and bodiless[finals])
        answer, data = _body(status, fields, rest, without, ended)
        found.append(answer)
        finals += 1
    return found


def _head(head: bytes) -> tuple[int, tuple[tuple[str, str], ...]]:
    first, *lines = head.split(b"\r\n")
    status = _STATUS_LINE(first)
    if status is None:
        raise NoAnswerError(f"no status line: {first!r}")
    fields: list[tuple[str, str]] = []
    for line in lines:
        field = _FIELD(line)
        if field is None:
            raise NoAnswerError(f"no field: {line!r}")
        fields.append((field[1].decode("ascii"), field[2].decode("latin-1")))
    return int(status[1]), tuple(fields)


def _body(
    status: int, fields: tuple[tuple[str, str], ...], data: bytes, without: bool, ended: bool
) -> tuple[Answer, bytes]:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1 or codings not in ([], ["chunked"]):
        raise NoAnswerError(f"more than one framing: {fields}")
    if without:
        if codings and status in (204, 304):
            raise NoAnswerError(f"a coding in a response without a body: {fields}")
        return Answer(status, fields, b"", True, "none"), data
    if codings:
        body, data, whole = _chunks(data)
        return Answer(status, fields, body, whole, "chunked"), data
    if lengths:
        length = int(lengths[0])
        return Answer(status, fields, data[:length], len(data) >= length, "length"), data[length:]
    return Answer(status, fields, data, ended, "end"), b""


def _chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    body = b""
    while True:
        size, mark, rest = data.partition(b"\r\n")
        if not mark:
            return body, b"", False
        length = int(size, 16)
        if len(rest) < length + 2:
            return body + rest[:length], b"", False
        if rest[length : length + 2] != b"\r\n":
            raise NoAnswerError(f"a chunk without its line end: {rest[: length + 2]!r}")
        body, data = body + rest[:length], rest[length + 2 :]
        if length == 0:
            return body, data, True


class Client:
    """A connection of a client. Everything that waits is bounded."""

    def __init__(
        self, address: tuple[str, int], patience: float = PATIENCE, receive_buffer: int = 0, source: str = ""
    ) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            self.sock.bind((source, 0))
        self.sock.settimeout(patience)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.reset = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def half_close(self) -> None:
        """End the client's side."""
        self.sock.shutdown(socket.SHUT_WR)

    def read(self) -> bool:
        """Read once; False at the end."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            self.reset = True
            return False
        self.received += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Read until `mark` has arrived. Returns all that has. Raises EOFError where the server ends before it."""
        while mark not in self.received:
            if not self.read():
                raise EOFError(f"the connection ended after {self.received!r}")
        return self.received

    def rest(self) -> bytes:
        """Read until the server ends the connection. Returns all that has arrived."""
        while self.read():
            pass
        return self.received

    def exchange(self, data: bytes) -> Answer:
        """Send a request with a response that has a length, and read that."""
        self.received = b""
        self.send(data)
        self.until(b"\r\n\r\n")
        while not (found := read_answers(self.received, ended=False)) or not found[-1].whole:
            if not self.read():
                raise EOFError(f"the connection ended after {self.received!r}")
        return found[-1]
