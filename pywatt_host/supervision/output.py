"""The lines that modules write to standard error: named, masked, printed, and the newest of them kept."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from pywatt_host.observability.escaping import json_line
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import Clock
from pywatt_host.supervision.rendering import ModuleLines, record_of

TAIL_LINES = 1000  # kept for each module
TAIL_CHARACTERS = 1024**2  # kept for each module; the newest line is kept even if it is longer
_FOLLOWER_LINES = 1000  # that wait for one follower


@dataclass(frozen=True, slots=True)
class OutputLine:
    """One line of a module, with secrets masked. `time` is when the line was read, as in RFC 3339."""

    time: str
    module: str
    replica: int
    text: str


class Output:
    """Prints the lines of all modules on standard error, keeps the newest, and passes them to followers.

    In the console style a line is printed as `users.1 | text`. In the JSON style, a line that is a JSON object gets the
    member `module`; any other line becomes the `message` of such an object.
    """

    def __init__(
        self, stream: LogStream, style: Literal["json", "console"], colour: bool, mask: Callable[[str], str]
    ) -> None:
        self._stream = stream
        self._style = style
        self._colour = colour
        self.mask = mask
        self._clock = Clock()
        self._tails: dict[str, deque[OutputLine]] = {}
        self._kept: dict[str, int] = {}  # characters in each tail
        self._replicas: dict[str, int] = {}
        self._lines = ModuleLines(self._replicas, colour=colour)
        self._followers: set[asyncio.Queue[OutputLine]] = set()

    def declare(self, module: str, replicas: int) -> None:
        """Register a module before its first line. Printed names are padded to the longest name."""
        self._tails[module] = deque()
        self._kept[module] = 0
        self._replicas[module] = replicas
        self._lines = ModuleLines(self._replicas, colour=self._colour)

    def label(self, module: str, replica: int) -> str:
        """The printed name of a replica: `users`, or `users.2` if the module has several replicas."""
        return self._lines.label(module, replica)

    def write(self, module: str, replica: int, data: bytes) -> None:
        """Take one line of a module, without its newline."""
        text = self.mask(data.rstrip(b"\r").decode("utf-8", "backslashreplace"))
        line = OutputLine(self._clock(time.time()), module, replica, text)
        self._keep(line)
        for queue in self._followers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(line)
        if self._style == "json":
            self._stream.write(self._json(line))
        else:
            self._stream.write(*self._console(line))

    def _keep(self, line: OutputLine) -> None:
        tail, kept = self._tails[line.module], self._kept[line.module] + len(line.text)
        tail.append(line)
        while len(tail) > TAIL_LINES or (kept > TAIL_CHARACTERS and len(tail) > 1):
            kept -= len(tail.popleft().text)
        self._kept[line.module] = kept

    def tail(self, module: str | None, most: int) -> list[OutputLine]:
        """The newest `most` lines of a module, or of all modules if `module` is None, the oldest first."""
        if module is not None:
            found = list(self._tails[module])
        else:
            found = sorted((line for tail in self._tails.values() for line in tail), key=lambda line: line.time)
        return found[-most:] if most else []

    @contextmanager
    def following(self) -> Iterator[asyncio.Queue[OutputLine]]:
        """A queue that receives every new line while the block runs. The oldest lines are dropped if the follower takes
        them too slowly."""
        queue: asyncio.Queue[OutputLine] = asyncio.Queue(_FOLLOWER_LINES)
        self._followers.add(queue)
        try:
            yield queue
        finally:
            self._followers.discard(queue)

    def _json(self, line: OutputLine) -> bytes:
        document = record_of(line.text)
        if document is None:
            document = {"time": line.time, "level": "info", "logger": "output", "message": line.text}
        document["module"] = line.module
        if self._replicas[line.module] > 1:
            document["replica"] = line.replica
        return json_line(document)

    def _console(self, line: OutputLine) -> tuple[bytes, int]:
        shown = self._lines.render(line.module, line.replica, line.text)
        return f"{shown}\n".encode("utf-8", "backslashreplace"), shown.count("\n") + 1
