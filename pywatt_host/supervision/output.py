"""What modules write to standard error: named, masked, shown, and the last of it kept."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from pywatt_host.exceptions import ProtocolError
from pywatt_host.observability.logs import Clock, LogStream, dump_line
from pywatt_host.protocol.jsontext import loads

KEPT = 1000  # lines of each module
KEPT_CHARACTERS = 1024**2  # of these together; the newest line is kept in any case
_WAITING = 1000  # lines that may wait for somebody who follows
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR; one for each module, in the order of the file


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a module, masked; `time` is when it was read, RFC 3339."""

    time: str
    module: str
    replica: int
    text: str


class Output:
    """The one place where lines of modules go: standard error, the tails, and whoever follows them.

    On a terminal a line is `users.1 | text`; where `up` logs JSON, a line that is a JSON object gets a `module`, and
    any other becomes one.
    """

    def __init__(
        self, stream: LogStream, style: Literal["json", "console"], colour: bool, mask: Callable[[str], str]
    ) -> None:
        self._stream = stream
        self._style = style
        self._colour = colour
        self.mask = mask
        self._clock = Clock()
        self._width = 0
        self._tails: dict[str, deque[Line]] = {}
        self._kept: dict[str, int] = {}  # characters in each tail
        self._replicas: dict[str, int] = {}
        self._followers: set[asyncio.Queue[Line]] = set()

    def declare(self, module: str, replicas: int) -> None:
        """A module that will write; the names of all are padded to the longest."""
        self._tails[module] = deque()
        self._kept[module] = 0
        self._replicas[module] = replicas
        self._width = max(self._width, len(self.label(module, replicas)))

    def label(self, module: str, replica: int) -> str:
        """`users`, or `users.2` where there are several."""
        return module if self._replicas.get(module, 1) == 1 else f"{module}.{replica}"

    def write(self, module: str, replica: int, octets: bytes) -> None:
        """A line of a module."""
        text = self.mask(octets.rstrip(b"\r").decode("utf-8", "backslashreplace"))
        line = Line(self._clock(time.time()), module, replica, text)
        self._keep(line)
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(line)
        self._stream.write(self._json(line) if self._style == "json" else self._console(line))

    def _keep(self, line: Line) -> None:
        tail, kept = self._tails[line.module], self._kept[line.module] + len(line.text)
        tail.append(line)
        while len(tail) > KEPT or (kept > KEPT_CHARACTERS and len(tail) > 1):
            kept -= len(tail.popleft().text)
        self._kept[line.module] = kept

    def tail(self, module: str | None, most: int) -> list[Line]:
        """The newest lines of a module, or of all of them, in order."""
        if module is not None:
            found = list(self._tails[module])
        else:
            found = sorted((line for tail in self._tails.values() for line in tail), key=lambda line: line.time)
        return found[-most:] if most else []

    @contextmanager
    def following(self) -> Iterator[asyncio.Queue[Line]]:
        """Every line from now on; the oldest are dropped where nobody takes them."""
        queue: asyncio.Queue[Line] = asyncio.Queue(_WAITING)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)

    def _json(self, line: Line) -> bytes:
        document = _object(line.text)
        if document is None:
            document = {"time": line.time, "level": "info", "logger": "output", "message": line.text}
        document["module"] = line.module
        if self._replicas[line.module] > 1:
            document["replica"] = line.replica
        return dump_line(document)

    def _console(self, line: Line) -> bytes:
        name = self.label(line.module, line.replica).ljust(self._width)
        if self._colour:
            number = list(self._tails).index(line.module)
            name = f"\x1b[{_COLOURS[number % len(_COLOURS)]}m{name}\x1b[0m"
        document = _object(line.text)
        text = line.text if document is None or "message" not in document else _record(document)
        return f"{name} | {_plain(text)}\n".encode("utf-8", "backslashreplace")


def _object(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        document = loads(text.encode("utf-8", "surrogatepass"))
    except ProtocolError:  # also what nests so deep that it could not be written again
        return None
    return document if isinstance(document, dict) else None


def _record(document: dict[str, Any]) -> str:
    """A log record of ours for people."""
    shown_already = ("time", "level", "logger", "message", "module")
    fields = {name: value for name, value in document.items() if name not in shown_already}
    when = str(document.get("time", ""))[11:23]
    head = " ".join(str(part) for part in (when, document.get("level", ""), document.get("logger", "")) if part)
    return f"{head}: {document['message']}" + "".join(f" {name}={value}" for name, value in fields.items())


def _plain(text: str) -> str:
    """Control characters escaped, but for tabs: no module writes to the terminal with more than text."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode() for char in text
    )
