"""A fuzz target: hostile bytes through both framings, the JSON reader and the messages, and into a session.

`python -m tests.protocol.fuzz --seconds 30 --seed 1`. Nothing but ProtocolError may come out, what was accepted can be
sent on and means the same, and time and memory stay in proportion to what was fed. A failure prints the round's seed:
`--seed N --rounds 1` repeats that round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
import tracemalloc
from collections import Counter
from typing import Any

from pywatt_host.exceptions import ProtocolError
from pywatt_host.protocol import codec
from pywatt_host.protocol.codec import Decoder, EnvelopeFrames, Frames, Lines
from pywatt_host.protocol.messages import EXTENSIONS, Heartbeat, Unknown
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.protocol.session import Session, cut
from tests.protocol import cases

LIMIT = 64 * 1024  # bytes of a message
_SECONDS = 2.0  # of one round, which takes milliseconds
_TIMES = 60  # bytes of memory for each that was fed or allowed
_ENCODINGS: tuple[Any, ...] = (codec.line, codec.frame, EnvelopeFrames())
_TOKENS: tuple[bytes, ...] = (
    *(b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\n", b"\r", b"null", b"true", b"-", b"1e999", b"NaN"),
    *(b'"op":', b'"op":"shutdown",', b'"content":', b'"payload":{"json":', b'"json":', b"4294967295", b"0.1", b" "),
    *(b"\xff", b"\x00", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b'\\"', b"\xef\xbb\xbf"),
    *(b"[" * 70, b"]" * 70, b'{"a":' * 40, b"9" * 400, b"\xff\xff\xff\xff\x01", b"\x00\x00\x00\x02\x00", b"\x00" * 5),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 256, 2**63, 2**64 - 1, 1.5, "", "x", "\u2028", "\x00", "😀" * 50, [], {}, [[]]),
    *([None], [256], [-1], [1.0], {"json": None}, {"data": [1], "format": "Base64"}, {"Custom": "x"}, {"Unix": "/x"}),
)


class FoundError(Exception):
    """Something that should not be."""


class Pipe:
    """An outlet that forgets."""

    def write(self, data: bytes) -> None:
        pass

    async def drained(self) -> None:
        pass


class Round:
    """Everything that one seed leads to."""

    def __init__(self, seed: int, corpus: list[Any], counts: Counter[str]) -> None:
        self.random = random.Random(seed)
        self.corpus = corpus
        self.counts = counts

    def play(self, session: Session, *, measured: bool) -> None:
        lines = self.random.random() < 0.5
        encoded = b"".join(self._unit(lines) for _ in range(self.random.randint(1, 8)))
        if self.random.random() < 0.3:
            encoded = self._damaged(encoded)
        pieces = self._pieces(encoded)
        decoder: Decoder = Lines(LIMIT) if lines else Frames(LIMIT)
        if measured:
            tracemalloc.start()
        started = time.process_time()
        try:
            for piece in pieces:
                for unit in decoder.feed(piece):
                    if len(unit) > LIMIT:
                        raise FoundError("a unit beyond the limit")
                    self._read(unit, session)
        except ProtocolError as error:
            self._refused(error)
        finally:
            most = tracemalloc.get_traced_memory()[1]
            if measured:
                tracemalloc.stop()
        if time.process_time() - started > _SECONDS:
            raise FoundError(f"a round took {time.process_time() - started:.1f} s")
        if most > _TIMES * (LIMIT + max(map(len, pieces), default=0)):
            raise FoundError(f"a round took {most} bytes of memory for {len(encoded)}")

    # Making bytes --------------------------------------------------------------------------------------------------

    def _unit(self, lines: bool) -> bytes:
        chance = self.random.random
        if chance() < 0.05:
            text = self._token() * self.random.randint(1, 4000)
        else:
            document = self.random.choice(self.corpus)
            for _ in range(self.random.choice((0, 0, 1, 1, 2, 5))):
                document = self._changed(document)
            separators = self.random.choice(((",", ":"), (", ", ": "), (" ,", "\t: ")))
            text = json.dumps(document, ensure_ascii=chance() < 0.5, separators=separators).encode()
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 3))):
            text = self._damaged(text)
        if lines:
            return text.replace(b"\n", b" ") * (1 if chance() < 0.98 else 50) + self.random.choice(
                (b"\n", b"\r\n", b"\n\n")
            )
        length = (
            len(text) if chance() < 0.97 else self.random.choice((0, 1, len(text) + 1, LIMIT, LIMIT + 1, 2**32 - 1))
        )
        format = 1 if chance() < 0.97 else self.random.randrange(256)
        return length.to_bytes(4, "big") + bytes([format]) + text

    def _changed(self, document: Any) -> Any:
        """A document with another value, member or nesting somewhere."""
        choose = self.random
        if isinstance(document, dict) and document and choose.random() < 0.8:
            name = choose.choice(list(document))
            match choose.randrange(5):
                case 0:
                    return {**document, name: choose.choice(_VALUES)}
                case 1:
                    return {key: value for key, value in document.items() if key != name}
                case 2:
                    other = choose.choice(self.corpus)
                    return {**document, **other} if isinstance(other, dict) else document
                case 3:
                    return {"content": document, "metadata": choose.choice(_VALUES)}
            return {**document, name: self._changed(document[name])}
        if isinstance(document, list) and document and choose.random() < 0.8:
            at = choose.randrange(len(document))
            return [*document[:at], self._changed(document[at]), *document[at + 1 :] * choose.randint(0, 2)]
        deep: Any = choose.choice(_VALUES)
        for _ in range(choose.choice((0, 0, 1, 30, 70))):
            deep = [deep] if choose.random() < 0.5 else {"a": deep}
        return deep

    def _damaged(self, encoded: bytes) -> bytes:
        at = self.random.randint(0, len(encoded))
        end = min(len(encoded), at + self.random.choice((0, 0, 1, 1, 2, 8)))
        match self.random.randrange(4):
            case 0:
                return encoded[:at] + self._token() + encoded[end:]
            case 1:
                return encoded[:at] + self.random.randbytes(self.random.randint(0, 4)) + encoded[end:]
            case 2:  # a part of it again: members that stand twice
                start = self.random.randint(0, at)
                return encoded[:at] + b"," * self.random.randint(0, 1) + encoded[start:at][:200] + encoded[at:]
        return encoded[:at] + encoded[end:]

    def _token(self) -> bytes:
        return self.random.choice(_TOKENS)

    def _pieces(self, encoded: bytes) -> list[bytes]:
        if self.random.random() < 0.3:
            return [encoded]
        most = self.random.choice((1, 2, 7, 64, 4096)) if len(encoded) < 4096 else 4096
        pieces, at = list[bytes](), 0
        while at < len(encoded):
            size = self.random.randint(0, most)
            pieces.append(encoded[at : at + size])
            at += size
        return pieces

    # Looking at what comes out --------------------------------------------------------------------------------------

    def _read(self, unit: bytes, session: Session) -> None:
        try:
            message = codec.read(unit)
        except ProtocolError as error:
            self._refused(error)
            return
        self.counts["messages"] += 1
        if len(repr(cut(message.op))) > 1100:
            raise FoundError("a name that is too long for a log")
        session.answered(message)
        if message.__class__ is Unknown:
            self.counts["unknown"] += 1
            return
        self._agrees_with_the_standard_library(unit)
        payload = getattr(message, "payload", None)
        if payload is not None:
            self._opened(payload)
        for extensions in (frozenset[str](), EXTENSIONS):
            self._sent_on(message, extensions)

    def _agrees_with_the_standard_library(self, unit: bytes) -> None:
        def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
            if len({name for name, _ in members}) != len(members):
                raise FoundError("a member that stands twice was accepted")
            return dict(members)

        json.loads(unit, object_pairs_hook=pairs)

    def _opened(self, payload: Payload) -> None:
        try:
            _ = payload.to_bytes()
            _ = Envelope.open(payload.document()).deadline
        except ProtocolError as error:
            self._refused(error)

    def _sent_on(self, message: Any, extensions: frozenset[str]) -> None:
        for encode in _ENCODINGS:
            try:
                encoded = encode(message, extensions)
            except ProtocolError as error:
                self._refused(error)  # bytes that are no document, where one was said to be
                continue
            (unit,) = Lines(2**30).feed(encoded) if encode is codec.line else Frames(2**30).feed(encoded)
            try:
                again = codec.read(unit)
            except ProtocolError as error:
                # A document inside byte numbers or an envelope nests deeper than it did.
                if "deeper" not in str(error):
                    raise FoundError(f"what was accepted is refused when it is sent on: {error}") from error
                continue
            if type(again) is not type(message):
                raise FoundError("what was accepted is another message when it is sent on")

    def _refused(self, error: ProtocolError) -> None:
        self.counts[error.code] += 1
        if len(str(error)) > 250 or "\n" in str(error):
            raise FoundError(f"an error that is no line: {str(error)[:300]!r}")


def corpus() -> list[Any]:
    return [*cases.documents(), *({"content": each, "id": "x"} for each in cases.documents() if isinstance(each, dict))]


async def fuzz(seconds: float, seed: int, rounds: int | None = None) -> Counter[str]:
    """Play rounds from this seed on for so long. Raises what a round found, its seed in a note."""
    documents, counts = corpus(), Counter[str]()
    session = Session("peer", Pipe(), codec.line, EXTENSIONS)
    waiting = asyncio.create_task(session.request(Heartbeat(), 3600))
    await asyncio.sleep(0)
    end = time.monotonic() + seconds
    while time.monotonic() < end and (rounds is None or counts["rounds"] < rounds):
        try:
            Round(seed, documents, counts).play(session, measured=counts["rounds"] % 50 == 0)
        except Exception as error:
            error.add_note(f"python -m tests.protocol.fuzz --seed {seed} --rounds 1")
            raise
        seed += 1
        counts["rounds"] += 1
        if counts["rounds"] % 100 == 0:
            await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=None)
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
    sys.stderr.write(f"seed {seed}\n")
    counts = asyncio.run(fuzz(asked.seconds, seed, asked.rounds))
    sys.stdout.write("".join(f"{name}: {count}\n" for name, count in sorted(counts.items())))


if __name__ == "__main__":
    main()
