"""The pipes to a module's process: JSON documents in both directions. Every wait has a timeout."""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeAlias

Document: TypeAlias = dict[str, Any]


class ProtocolPipes:
    """The standard input and output of a module. A thread reads the output, unless it is stalled.

    `unread` has the documents that no call of `next` has returned yet, `raw` every line so far, `noise` the lines that
    are not of the protocol. `closed`: the module has closed its output.
    """

    def __init__(self, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.unread: list[Document] = []
        self.raw: list[bytes] = []
        self.noise: list[str] = []
        self.closed = False
        self._stdin = stdin
        self._stdout = stdout
        self._reading = threading.Event()
        self._reading.set()
        self._changed = threading.Condition()
        os.set_blocking(stdin.fileno(), False)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._stdout.fileno(), 65536):
            self._reading.wait()
            *lines, rest = (rest + data).split(b"\n")
            self._take([line + b"\n" for line in lines])
        self._reading.wait()
        self._take([rest] if rest else [], last=True)

    def _take(self, lines: list[bytes], *, last: bool = False) -> None:
        with self._changed:
            for line in lines:
                self.raw.append(line)
                document = _document(line)
                if document is None:
                    self.noise.append(line.decode("utf-8", "replace").rstrip("\n"))
                else:
                    self.unread.append(document)
            self.closed = self.closed or last
            self._changed.notify_all()

    def next(self, wanted: Callable[[Document], bool], timeout: float) -> Document | None:
        """Wait for the first document for which `wanted` is true, and take it out. None if there is none within
        `timeout` seconds, or if the module closes its output before."""

        def found() -> Document | None:
            return next((each for each in self.unread if wanted(each)), None)

        with self._changed:
            self._changed.wait_for(lambda: self.closed or found() is not None, timeout)
            document = found()
            if document is not None:
                self.unread.remove(document)
            return document

    def write(self, data: bytes, timeout: float) -> bool:
        """Write to the module. Returns whether the pipe took all bytes within `timeout` seconds. Raises BrokenPipeError
        if the module has closed its input."""
        view, end = memoryview(data), time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._stdin, select.POLLOUT)
        while view:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                continue
        return True

    def close_input(self) -> None:
        """Close the module's standard input."""
        self._stdin.close()

    def stall(self) -> None:
        """Stop reading. Once the pipe is full (64 KiB on Linux), the module cannot write any more."""
        self._reading.clear()

    def resume(self) -> None:
        """Read again."""
        self._reading.set()

    def close(self, timeout: float) -> None:
        """Close both pipes. Call this after the process has ended."""
        self._reading.set()
        self._reader.join(timeout)
        self._stdin.close()
        self._stdout.close()


def _document(line: bytes) -> Document | None:
    """The message of a line, without its envelope; None if the line is not of the protocol. An `announce` may lack
    `op`."""
    try:
        document = json.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    if "op" not in document and isinstance(document.get("content"), dict):
        document = document["content"]
    if "op" not in document and {"listen", "endpoints"} <= document.keys():
        document = {"op": "announce", **document}
    return document if "op" in document else None
