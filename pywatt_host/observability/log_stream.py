"""The one writer of log lines. A standard error that takes nothing costs lines, and never holds who logs.

Standard error may be a pipe that nothing reads, a pipe whose reader has gone, a terminal that is stopped with Ctrl-S, a
socket, or a file on a full disk. A write to the first or the third of them blocks for ever. O_NONBLOCK on descriptor 2
would be wrong: it belongs to the open file description, which other processes (a shell, a supervisor, children) share.
So a write must not block, and nothing that is shared may change:

- A pipe is written to with RWF_NOWAIT, which is O_NONBLOCK for one call (Linux 6.5 and later know it for pipes).
- Elsewhere a pipe, and everywhere a terminal, is opened once more by way of /proc/self/fd. That gives a description of
  our own of the same pipe or terminal, which can be non-blocking. A write costs one system call in either case.
- Where it cannot be opened (not on Linux, or the pipe belongs to another user), it is asked before each write whether
  it takes PIPE_BUF bytes, and gets no more than that at once. Another process that fills the pipe between the two
  calls could still hold us for as long as it is full.
- A socket is written to with MSG_DONTWAIT. Anything else (files) does not block.

Lines that a pipe does not take at once wait in memory, up to 128 KiB: a reader that is busy for a moment loses nothing.
A thread, which runs only while lines wait, writes them when the reader goes on. Where the reader takes nothing for a
quarter of a second, or more than 128 KiB would wait, lines are lost. They are counted, and once the stream takes lines
again, one line tells how many. The rest of a line that has left in part is never lost: it would be joined with another
line.

Every line goes straight to the descriptor, so that nothing has to be flushed before `os._exit`, apart from what waits:
`flush` tries that once more. The descriptor is looked at once, at the first write: what is put in its place later is
written to in the same way, or not noticed where it was opened once more.
"""

from __future__ import annotations

import _thread
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_MAX_WAITING = 128 * 1024  # bytes
_STALL_TIMEOUT = 0.25  # seconds in which the reader takes nothing, after which lines that wait are lost
_STALLED_INTERVAL = 1.0  # seconds between two looks whether the end of the process has come, while it takes nothing
_FINISH_TIMEOUT = 0.2  # seconds without progress, after which the end of the process does not wait for the reader
_FINISH_LIMIT = 1.0  # seconds that it waits at most
_LOCK_TIMEOUT = 0.5  # seconds: another thread may be held by a file on a server that does not answer


class LogStream:
    """Writes whole lines to a file descriptor, each masked by `mask` where there is one. Safe from any thread and from
    signal handlers; never blocks."""

    def __init__(self, fd: int, mask: Callable[[bytes], bytes] | None = None) -> None:
        self._mask = mask
        self._fd = fd
        self._write: Callable[[bytes | memoryview], int] | None = None  # None: the descriptor was not yet looked at
        self._own: socket.socket | int | None = None  # what was opened for this stream
        self._lock = threading.RLock()  # a signal handler may log while this thread is writing
        self._waiting: deque[tuple[bytes, int]] = deque()  # bytes, and the number of lines that end in them
        self._waiting_bytes = 0
        self._cut = False  # the first of those begins within a line
        self._sending = False
        self._failed = False  # the last write failed for another reason than that the reader was slow
        self._drained_by = 0  # the process whose thread writes what waits; 0: there is none
        self._untold = 0  # lost lines that no line has told of
        self._lost_line: Callable[[int], bytes] = _lost_line
        self.lost = 0  # lines

    def mask_with(self, mask: Callable[[bytes], bytes]) -> None:
        """Mask what is written from now on. The stream exists before the secrets of a host are known."""
        self._mask = mask

    def masked(self, data: bytes) -> bytes:
        """The data as this stream would write it, with secrets masked."""
        return data if self._mask is None else self._mask(data)

    def tell_lost_with(self, lost_line: Callable[[int], bytes] | None) -> None:
        """Use this to make the line that tells how many lines were lost; None: a line of plain text."""
        self._lost_line = lost_line or _lost_line

    def write(self, data: bytes, lines: int = 1) -> None:
        """Write data of so many whole `lines`, now or soon. Lines that cannot be written are counted in `lost`."""
        masked = self.masked(data)
        if not self._lock.acquire(timeout=_LOCK_TIMEOUT):
            self._lose(lines)
            return
        try:
            self._put(masked, lines)
        finally:
            self._lock.release()

    def flush(self) -> None:
        """Try once to write what waits, without waiting for the reader."""
        if self._waiting and self._lock.acquire(timeout=_LOCK_TIMEOUT):
            try:
                self._send_waiting()
            finally:
                self._lock.release()

    def finish(self) -> None:
        """Write what waits, at the end of the process. A reader that goes on reading gets everything within a second;
        one that does not read costs 0.2 seconds. What still waits then is lost; the stream can be written to again."""
        end = time.monotonic() + _FINISH_LIMIT
        self.flush()
        while self._waiting and not self._failed and time.monotonic() < end:
            if not _ready(self._descriptor, _FINISH_TIMEOUT):
                break
            self.flush()
        if self._lock.acquire(timeout=_LOCK_TIMEOUT):
            self._give_up()
            self._untold = self._drained_by = 0
            self._lock.release()

    # With the lock ----------------------------------------------------------------------------------------------------

    def _put(self, data: bytes, lines: int) -> None:
        if self._drained_by and self._drained_by != os.getpid():  # a fork has no thread, and what waits is not its own
            self._waiting.clear()
            self._waiting_bytes = self._drained_by = self._untold = 0
        if not self._drained_by and not self._sending:
            if self._waiting:
                self._send_waiting()
            elif self._untold:
                self._tell()
        if self._untold:
            self._lose(lines)
        elif not self._waiting:
            sent = self._send(data)
            if sent < len(data):
                self._keep(data, sent, lines)
        elif self._waiting_bytes + len(data) <= _MAX_WAITING:
            self._wait(data, lines)
        else:
            self._lose(lines)

    def _keep(self, data: bytes, sent: int, lines: int) -> None:
        """Let the rest of the data wait, or lose it where waiting is of no use."""
        self._cut = sent > 0 and data[sent - 1] != 10
        self._wait(data[sent:], min(lines, data.count(b"\n", sent)) if sent else lines)
        if self._failed or self._waiting_bytes > _MAX_WAITING:
            self._give_up()
        elif not self._drained_by:
            self._drained_by = os.getpid()
            try:
                _thread.start_new_thread(self._drain, ())  # not `threading`, whose locks a signal handler must not take
            except RuntimeError:  # the interpreter ends
                self._drained_by = 0

    def _wait(self, data: bytes, lines: int) -> None:
        self._waiting.append((data, lines))
        self._waiting_bytes += len(data)

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self._untold += lines

    def _give_up(self) -> None:
        """Lose what waits, apart from the rest of a line that has left in part."""
        lines = sum(lines for _, lines in self._waiting)
        rest = b""
        if self._cut and self._waiting:
            first = self._waiting[0][0]
            rest = first[: first.index(b"\n") + 1]
            lines -= min(lines, 1)
        self._waiting.clear()
        self._waiting_bytes = 0
        if rest:
            self._wait(rest, 0)
        self._lose(lines)

    def _send_waiting(self) -> None:
        """Write what waits, then tell of what was lost, as far as the stream takes it."""
        if self._sending:  # in a signal handler that has interrupted this
            return
        self._sending = True
        try:
            while self._waiting:
                data, lines = self._waiting[0]
                sent = self._send(data)
                self._waiting_bytes -= sent
                if sent < len(data):
                    if sent:
                        self._waiting[0] = data[sent:], min(lines, data.count(b"\n", sent))
                        self._cut = data[sent - 1] != 10
                    if self._failed:
                        self._give_up()
                    return
                self._waiting.popleft()
                self._cut = False
            if self._untold:
                self._tell()
        finally:
            self._sending = False

    def _tell(self) -> None:
        line = self._lost_line(self._untold)
        sent = self._send(line)
        if sent:
            self._untold = 0
            if sent < len(line):
                self._keep(line, sent, 0)

    def _send(self, data: bytes) -> int:
        """Write as much as the stream takes; returns how many bytes that was."""
        self._failed = False
        sent = 0
        try:
            write = self._write or self._look()
            sent = write(data)
            while sent < len(data):
                sent += write(memoryview(data)[sent:])
        except BlockingIOError:
            pass
        except OSError:  # the reader has gone, or the disk is full: serving goes on
            self._failed = True
        return sent

    def _look(self) -> Callable[[bytes | memoryview], int]:
        """Look at the descriptor, and decide how it is written to without blocking. Raises OSError."""
        fd = self._fd
        mode = os.fstat(fd).st_mode
        if stat.S_ISSOCK(mode):
            self._own = sock = socket.socket(fileno=os.dup(fd))
            self._write = lambda data: sock.send(data, socket.MSG_DONTWAIT)
        elif stat.S_ISFIFO(mode) and _can_write_at_once():
            self._write = lambda data: os.pwritev(fd, [data], -1, os.RWF_NOWAIT)
        elif stat.S_ISFIFO(mode) or os.isatty(fd):
            try:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._own = own = os.open(f"/proc/self/fd/{fd}", flags)
                self._write = lambda data: os.write(own, data)
            except OSError:
                self._write = lambda data: _write_if_ready(fd, data)
        else:
            self._write = lambda data: os.write(fd, data)
        return self._write

    @property
    def _descriptor(self) -> int:
        return self._own if isinstance(self._own, int) else self._fd

    # In a thread of its own -------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Write what waits whenever the reader takes it, until nothing waits and everything is told."""
        timeout = _STALL_TIMEOUT
        while True:
            ready = _ready(self._descriptor, timeout)
            with self._lock:
                if not self._drained_by:  # it has finished, and the descriptor may be another one by now
                    return
                if ready:
                    timeout = _STALL_TIMEOUT
                    self._send_waiting()
                else:
                    timeout = _STALLED_INTERVAL
                    self._give_up()
                if self._failed or not (self._waiting or self._untold):
                    self._drained_by = 0
                    return

    def __del__(self) -> None:
        with suppress(OSError):
            if isinstance(self._own, int):
                os.close(self._own)
            elif self._own is not None:
                self._own.close()


def _ready(fd: int, timeout: float) -> bool:
    """Wait until the descriptor takes bytes, or has an error that a write would tell."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))


def _can_write_at_once() -> bool:
    """Whether the kernel knows RWF_NOWAIT for pipes."""
    if not hasattr(os, "RWF_NOWAIT"):
        return False
    reading, writing = os.pipe()
    try:
        return os.pwritev(writing, [b"x"], -1, os.RWF_NOWAIT) == 1
    except (OSError, NotImplementedError):
        return False
    finally:
        os.close(reading)
        os.close(writing)


def _write_if_ready(fd: int, data: bytes | memoryview) -> int:
    """Write up to PIPE_BUF bytes, which a pipe that is ready takes at once. Raises BlockingIOError where it is not."""
    if not _ready(fd, 0):
        raise BlockingIOError
    return os.write(fd, data[: select.PIPE_BUF])


def _lost_line(lines: int) -> bytes:
    return f"{lost_text(lines)}\n".encode()


def lost_text(lines: int) -> str:
    """What the log says about lines that were lost."""
    return f"{lines} log lines were lost: standard error was full"
