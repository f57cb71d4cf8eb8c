"""Random connections for the server, with the cases of the suite as their corpus.

    python -m tests.http.server.fuzz SECONDS [SEED]

Each input is fed whole, and again in random pieces. What has to hold: no exception leaves the connection; the pieces
change neither what the application sees nor the answers; each answer can be read; there are no more answers than
requests; what the application sees is what h11, an independent parser, reads where it accepts the input as well; and no
more than the limits is kept in memory.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pywatt_host.http.server.connection import HttpConnection
from pywatt_host.http.server.exchange import BODY_BUFFER
from pywatt_host.http.server.serving import AppHandler, Bounds, Serving
from pywatt_host.types import Message, Receive, Scope, Send
from tests.http.server.answers import NoAnswerError, read_answers
from tests.http.server.connections.table import CASES

_LONGEST = 6000  # bytes of an input
_SLICE = 64 * 1024  # bytes that the connection may take at once
_TURNS = 400  # of the event loop, after which a connection has to be done
CORPUS = sorted(
    {data for case in CASES if len(data := b"".join(step for step in case.send if isinstance(step, bytes))) < _LONGEST}
)
_TOKENS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"\r\n\r\n", b"5\r\n", b"chunked",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD ", b"POST ", b"http://b/", b"+", b"-", b"0x", b"_", b"\xff",
    b"99999999999999999999", b"Connection: keep-alive\r\n", b"gzip, chunked", b"X-A: b\r\n",
)  # fmt: skip


class FuzzError(AssertionError):
    """Something did not hold."""


@dataclass(slots=True)
class Asked:
    """A request as the application, or another parser, sees it."""

    method: str
    target: bytes
    headers: list[tuple[bytes, bytes]]  # without names that have an underscore, and request ids
    body: bytes = b""
    complete: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of an input."""

    asked: list[Asked] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    output: bytes = b""


class Wire(asyncio.Transport):
    """A transport to nowhere. `protocol` is the connection, or the WebSocket that it has become."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self.protocol: Any = None
        self.written = bytearray()
        self.paused = self.closing = self.lost = self.ended = False

    def write(self, data: Any) -> None:
        if self.closing:
            return
        if self.ended:
            raise FuzzError("written after the end of the stream")
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self.lose)

    abort = close

    def lose(self) -> None:
        if not self.lost:
            self.closing = self.lost = True
            self.protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 5), "sockname": ("127.0.0.1", 6)}.get(name, default)


class Fuzz:
    """Feeds inputs to connections of one server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._outcome = Outcome()
        self._errors: list[str] = []
        loop.set_exception_handler(lambda _, context: self._errors.append(str(context)))
        self._serving = Serving(AppHandler(self._app), Bounds(), loop)
        self.checked = self.answered = self.compared = 0

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            return
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        asked = Asked(scope["method"], scope["raw_path"] + query, _kept(scope["headers"]))
        self._outcome.asked.append(asked)
        message: Message = {"type": "http.request", "more_body": True}
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            asked.body += message["body"]
        asked.complete = True
        body = asked.method.encode() + b" " + asked.target + b" " + asked.body
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"].startswith("/stream"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def converse(self, pieces: Sequence[tuple[bytes, int]]) -> Outcome:
        """Feed pieces, each with a number of turns of the event loop after it, then the end of the client's side."""
        outcome = self._outcome = Outcome()
        wire = Wire(self._loop)
        connection = wire.protocol = HttpConnection.of(self._serving)
        connection.connection_made(wire)
        for piece, turns in pieces:
            for _ in range(_TURNS):
                if not wire.paused or wire.closing:
                    break
                await asyncio.sleep(0)
            if wire.closing:
                break
            wire.protocol.data_received(piece)
            self._check_memory(connection)
            for _ in range(turns):
                await asyncio.sleep(0)
        for _ in range(_TURNS):
            if not wire.paused or wire.closing:
                break
            await asyncio.sleep(0)
        if not wire.closing and not wire.protocol.eof_received():
            wire.close()
        for _ in range(_TURNS):
            if wire.lost and not self._serving.running:
                break
            if wire.ended:  # it lingers, until the client has read everything
                wire.close()
            await asyncio.sleep(0)
        else:
            raise FuzzError("the connection does not end")
        outcome.output = bytes(wire.written)
        if self._errors:
            raise FuzzError(self._errors.pop())
        return outcome

    def _check_memory(self, connection: HttpConnection) -> None:
        most = self._serving.bounds.header_bytes + _SLICE
        reader = connection.reader
        held = sum(len(name) + len(value) for name, value in reader.headers)
        exchange = reader.exchange
        buffered = exchange._buffered if exchange is not None else 0
        if held > most or reader.head_bytes > most or buffered > BODY_BUFFER + _SLICE:
            raise FuzzError("too much is kept")
        if connection.queue is not None and len(connection.queue) > 257:
            raise FuzzError("too many requests wait")

    def check(self, data: bytes, rng: random.Random) -> None:
        """Feed an input whole and in pieces. Raises FuzzError."""
        whole = self._run([(data, 0)])
        pieces = self._run(_cut(data, rng))
        self.checked += 1
        if b"websocket" in data.lower():
            return  # behind another request, a handshake is taken only where it arrives after the answer
        self._read(whole)
        self._read(pieces)
        if _seen(whole) != _seen(pieces):
            raise FuzzError(f"pieces change what is seen: {whole.asked} / {pieces.asked}")
        if (whole.statuses, whole.bodies) != (pieces.statuses, pieces.bodies):
            raise FuzzError(f"pieces change the answers: {whole.output!r} / {pieces.output!r}")
        self._compare(data, whole)

    def _run(self, pieces: Sequence[tuple[bytes, int]]) -> Outcome:
        return self._loop.run_until_complete(self.converse(pieces))

    def _read(self, outcome: Outcome) -> None:
        heads = [asked.method == "HEAD" for asked in outcome.asked]
        try:
            answers = read_answers(outcome.output, heads)
        except NoAnswerError:
            answers = []
        if outcome.output and not (answers and answers[-1].whole):
            answers = read_answers(outcome.output, [*heads, True])  # the last one refuses a HEAD
        finals = [answer for answer in answers if answer.status >= 200]
        if len(finals) > len(outcome.asked) + 1:
            raise FuzzError(f"{len(finals)} answers to {len(outcome.asked)} requests")
        for answer in finals:
            if len(answer.values("date")) != 1 or len(answer.values("x-request-id")) != 1:
                raise FuzzError(f"no date, or no request id: {answer}")
            if not answer.whole:
                raise FuzzError(f"not whole: {answer}")
        outcome.statuses = [answer.status for answer in finals]
        outcome.bodies = [answer.body for answer in finals if answer.status == 200]
        self.answered += len(finals)

    def _compare(self, data: bytes, outcome: Outcome) -> None:
        """What the application sees is what h11 reads, as far as both go."""
        for ours, other in zip(outcome.asked, _by_h11(data), strict=False):
            if not ours.complete or not other.complete or not other.target.startswith(b"/"):
                return
            self.compared += 1
            if ours != other:
                raise FuzzError(f"two readings of a request: {ours} / {other}")


def _seen(outcome: Outcome) -> list[Any]:
    return [(asked.method, asked.target, asked.headers, asked.body) for asked in outcome.asked if asked.complete]


def _kept(headers: Any) -> list[tuple[bytes, bytes]]:
    return [
        (name, value.lower() if name == b"transfer-encoding" else value)
        for name, value in headers
        if b"_" not in name and name != b"x-request-id"
    ]


def _by_h11(data: bytes) -> list[Asked]:
    """The requests that h11 reads, up to the first that it refuses."""
    h11: Any = import_module("h11")
    connection, found = h11.Connection(h11.SERVER), list[Asked]()
    connection.receive_data(data)
    connection.receive_data(b"")
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                found.append(Asked(event.method.decode(), event.target, _kept(event.headers)))
            elif isinstance(event, h11.Data):
                found[-1].body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found[-1].complete = True
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
            else:
                return found
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        return found


def _cut(data: bytes, rng: random.Random) -> list[tuple[bytes, int]]:
    """The data in random pieces: few, many, bytes, or whole heads, each after the answer to the one before."""
    size = rng.choice((1, 2, 7, 50, 500, 0))
    if not size:
        heads = data.split(b"\r\n\r\n")
        return [*((head + b"\r\n\r\n", 20) for head in heads[:-1]), (heads[-1], 0)]
    pieces, at = [], 0
    while at < len(data):
        end = at + rng.randint(1, size)
        pieces.append((data[at:end], rng.choice((0, 0, 1, 3, 20))))
        at = end
    return pieces


def mutated(rng: random.Random) -> bytes:
    """An entry of the corpus, or several, with random changes."""
    data = b"".join(rng.choice(CORPUS) * rng.choice((1, 1, 2)) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        at = rng.randint(0, len(data))
        end = min(len(data), at + rng.choice((1, 1, 2, 5, 20, 100)))
        change = rng.randint(0, 6)
        if change == 0:
            data = data[:at] + data[end:]
        elif change == 1:
            data = data[:end] + data[at:]
        elif change in (2, 3):
            data = data[:at] + rng.choice(_TOKENS) + data[at:]
        elif change == 4:
            data = data[:at] + bytes([rng.randint(0, 255)]) + data[at + 1 :]
        elif change == 5:
            data = data[:at] + data[at:end].swapcase() + data[end:]
        else:  # at the start of a line
            line = data.rfind(b"\r\n", 0, at) + 2
            data = data[:line] + rng.choice(_TOKENS) + data[line:] if line > 1 else data[:at]
    return data[:_LONGEST]


def main(seconds: float, seed: int) -> None:
    logging.disable(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    fuzz, end, rng = Fuzz(loop), time.monotonic() + seconds, random.Random(seed)
    data = b""
    try:
        while time.monotonic() < end:
            data = mutated(rng)
            fuzz.check(data, rng)
    except BaseException:
        print(f"seed {seed}, input {fuzz.checked}: {data!r}")
        raise
    finally:
        print(f"{fuzz.checked} inputs, {fuzz.answered} answers, {fuzz.compared} requests compared with h11")
        loop.close()


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
