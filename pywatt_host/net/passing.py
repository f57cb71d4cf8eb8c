"""Passing accepted connections between the processes of a host, over a pair of connected Unix sockets.

Each connection is one byte, the number of its listener, with the descriptor beside it (SCM_RIGHTS, unix(7)). The other
side confirms each connection that it has taken with one byte of its own. So the sender knows how many are on their way,
and what to pass to somebody else when the other process ends, or does not take them.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

UNCONFIRMED = 100  # connections that may be on their way to the other side
_BATCH = 64  # connections that are received before other work gets its turn
_CONFIRMED = 0xFF
_BUFFER = 1 << 18  # bytes; far more than those connections and their confirmations take
_LINUX = sys.platform == "linux"
_AHEAD = 64 if _LINUX else 1  # bytes to look at; reading stops behind a descriptor on Linux
_SPACE = socket.CMSG_SPACE(struct.calcsize("i"))


class PassingChannel:
    """One end of a channel. Both ends pass connections and receive them; neither ever waits.

    `sock` is one of `socket.socketpair()`. The channel owns it, and `other_end`, with which it can `take_back`. `alone`
    is entered while this side receives; it gives False where the other side takes back at that moment.
    """

    def __init__(
        self,
        sock: socket.socket,
        other_end: socket.socket | None = None,
        alone: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True),
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._sock = sock
        self._other_end = other_end
        self._alone = alone
        self._owed = 0  # confirmations that have not been sent
        self.unconfirmed = 0  # connections that were sent, and that the other side has not taken yet
        self.ended = False  # the other side sends no more, and all that it has sent was received

    def fileno(self) -> int:
        """The descriptor to watch; -1 once the channel is closed."""
        return self._sock.fileno()

    def send(self, connection: socket.socket, listener: int) -> bool:
        """Pass a duplicate of a connection, with the number of its listener (0 to 254).

        After True the caller closes its own. False: the channel is full, or the other side has gone.
        """
        if not 0 <= listener < _CONFIRMED:
            raise ValueError(f"not the number of a listener: {listener}")
        if self.unconfirmed >= UNCONFIRMED:
            return False
        try:
            socket.send_fds(self._sock, [bytes((listener,))], [connection.fileno()])
        except OSError:
            return False
        self.unconfirmed += 1
        return True

    def receive(self, at_most: int = _BATCH) -> list[tuple[int, socket.socket]]:
        """The connections that are there now: the number of the listener, and a non-blocking socket. Each is confirmed
        to the other side.

        Raises OSError where this process has no descriptor left for the first of them. On Linux that connection stays
        in the channel; elsewhere the system has closed it.
        """
        with self._alone() as alone:
            return self._received(at_most) if alone else []

    def _received(self, at_most: int) -> list[tuple[int, socket.socket]]:
        found: list[tuple[int, socket.socket]] = []
        taken = 0
        try:
            while taken < at_most and self._waiting():
                try:
                    listener, descriptor = self._take()
                except OSError:
                    if found:
                        break
                    raise
                taken += 1
                try:
                    connection = socket.socket(fileno=descriptor)
                except OSError:
                    os.close(descriptor)  # the client has gone
                    continue
                connection.setblocking(False)
                found.append((listener, connection))
        finally:
            self._confirm(taken)
        return found

    def waiting(self) -> bool:
        """Whether a connection is there to be received. Confirmations before it are read."""
        with self._alone() as alone:
            return alone and self._waiting()

    def _waiting(self) -> bool:
        while not self.ended:
            try:
                ahead = self._sock.recv(_AHEAD, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                ahead = b""  # the other side has ended with something unread
            if not ahead:
                self.ended = True
                break
            confirmed = len(ahead) - len(ahead.lstrip(bytes((_CONFIRMED,))))
            if confirmed:
                self._sock.recv(confirmed)
                self.unconfirmed -= confirmed
            if confirmed < len(ahead):
                return True
        return False

    def finish(self) -> None:
        """Send nothing more. The other side has `ended` once it has received what was sent before."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the other side has gone

    def close(self) -> None:
        """Close this end. The kernel closes connections that were not received."""
        self._sock.close()
        if self._other_end is not None:
            self._other_end.close()

    def take_back(self) -> int:
        """Take back the connections that the other side has not received: so many of those that were sent last. The
        other side must not receive meanwhile (`alone`)."""
        taken = confirmations = 0
        while self._other_end is not None:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._other_end, 1, 1, socket.MSG_DONTWAIT)
            except OSError:  # there is nothing more
                break
            for descriptor in descriptors:
                os.close(descriptor)  # the caller has its own
            if not data:
                break
            if data[0] == _CONFIRMED:
                confirmations += 1
            else:
                taken += 1
        self.unconfirmed -= taken
        self._confirm(confirmations)  # once more: they are for the other side
        return taken

    def _take(self) -> tuple[int, int]:
        """The next connection: the number of its listener, and the descriptor."""
        flags = (socket.MSG_PEEK | socket.MSG_CMSG_CLOEXEC) if _LINUX else 0
        data, ancillary, _, _ = self._sock.recvmsg(1, _SPACE, flags)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        if not descriptors:
            if not _LINUX:
                self._confirm(1)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if _LINUX:
            self._sock.recv(1)  # the descriptor that was looked at stays; there is no second one
        else:
            os.set_inheritable(descriptors[0], False)
        return data[0], descriptors[0]

    def _confirm(self, count: int) -> None:
        self._owed += count
        if self._owed:
            try:
                self._owed -= self._sock.send(bytes((_CONFIRMED,)) * self._owed)
            except (BlockingIOError, InterruptedError):
                pass  # later, with the next ones
            except OSError:
                self._owed = 0  # nobody reads confirmations any more
