"""Both pipes of a module: documents out, documents in, with nothing that blocks for good."""

from __future__ import annotations

import json
import os
import select
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeAlias

Document: TypeAlias = dict[str, Any]


class Pipes:
    """What the module says is taken by a thread, unless it is stalled."""

    def __init__(self, to: IO[bytes], of: IO[bytes]) -> None:
        self.said: list[Document] = []  # and not heard yet
        self.raw: list[bytes] = []
        self.noise: list[str] = []
        self.closed = False
        self._to = to
        self._of = of
        self._going = threading.Event()
        self._going.set()
        self._news = threading.Condition()
        os.set_blocking(to.fileno(), False)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        rest = b""
        while octets := os.read(self._of.fileno(), 65536):
            self._going.wait()
            *lines, rest = (rest + octets).split(b"\n")
            self._take([line + b"\n" for line in lines])
        self._going.wait()
        self._take([rest] if rest else [], last=True)

    def _take(self, lines: list[bytes], *, last: bool = False) -> None:
        with self._news:
            for line in lines:
                self.raw.append(line)
                document = _document(line)
                if document is None:
                    self.noise.append(line.decode("utf-8", "replace").rstrip("\n"))
                else:
                    self.said.append(document)
            self.closed = self.closed or last
            self._news.notify_all()

    def next(self, wanted: Callable[[Document], bool], timeout: float) -> Document | None:
        """The first that is wanted, taken out; None where there is none within `timeout` seconds or the module has
        closed its output."""

        def found() -> Document | None:
            return next((each for each in self.said if wanted(each)), None)

        with self._news:
            self._news.wait_for(lambda: self.closed or found() is not None, timeout)
            document = found()
            if document is not None:
                self.said.remove(document)
            return document

    def write(self, octets: bytes, timeout: float) -> bool:
        """Whether all of it was taken within `timeout` seconds. Raises BrokenPipeError where nobody reads any more."""
        view, end = memoryview(octets), time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._to, select.POLLOUT)
        while view:
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                return False
            try:
                view = view[os.write(self._to.fileno(), view) :]
            except BlockingIOError:
                continue
        return True

    def close_input(self) -> None:
        """Its standard input is at its end."""
        self._to.close()

    def stall(self) -> None:
        """Take nothing any more: what the pipe holds (64 KiB on Linux) fills up, then the module cannot write."""
        self._going.clear()

    def resume(self) -> None:
        self._going.set()

    def close(self, timeout: float) -> None:
        """To be called once the process has ended."""
        self._going.set()
        self._listener.join(timeout)
        self._to.close()
        self._of.close()


def _document(line: bytes) -> Document | None:
    """Bare or in an envelope; None for what is not of the protocol. `announce` may come without `op`."""
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
