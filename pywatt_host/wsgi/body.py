"""`wsgi.input`: the request body as the file-like object of PEP 3333, received while the application reads it."""

from __future__ import annotations

from collections.abc import Callable


class RequestBody:
    """Reads like an `io.BytesIO` with the whole body. A read waits until it has enough bytes or the body ends.

    `pull` returns the next bytes, and waits for them in the application's thread; `b""` means the end of the body. It
    raises ConnectionError if the client has disconnected, and so do the reads. One thread at a time may read.
    """

    __slots__ = ("_buffer", "_ended", "_pull")

    def __init__(self, first: bytes, ended: bool, pull: Callable[[], bytes]) -> None:
        self._buffer = bytearray(first)
        self._ended = ended
        self._pull = pull

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            while self._more():
                pass
            return self._take(len(self._buffer))
        while len(self._buffer) < size and self._more():
            pass
        return self._take(size)

    def readline(self, size: int | None = -1) -> bytes:
        limit = None if size is None or size < 0 else size
        searched = 0
        while True:
            found = self._buffer.find(b"\n", searched, limit)
            if found >= 0:
                return self._take(found + 1)
            searched = len(self._buffer)
            if limit is not None and searched >= limit:
                return self._take(limit)
            if not self._more():
                return self._take(searched)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """Return all remaining lines, or with `hint` as many as it takes to reach that number of bytes."""
        lines: list[bytes] = []
        total = 0
        for line in self:
            lines.append(line)
            total += len(line)
            if hint is not None and 0 < hint <= total:
                break
        return lines

    def __iter__(self) -> RequestBody:
        return self

    def __next__(self) -> bytes:
        line = self.readline()
        if not line:
            raise StopIteration
        return line

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _more(self) -> bool:
        """Add the next bytes to the buffer. Return False at the end of the body."""
        if self._ended:
            return False
        data = self._pull()
        self._ended = not data
        self._buffer += data
        return not self._ended
