"""Ends a process of a host with workers once its supervisor has gone, though its main thread may be busy."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from importlib import import_module

ORPHAN_GRACE = 8.0  # seconds that workers have to finish their requests once the supervisor is gone
_PR_SET_PDEATHSIG = 1


class SupervisorWatch(threading.Thread):
    """Kills this process `grace` seconds after the supervisor has closed its end of `connection`, unless `stop` is
    called before. What the connection carries is left alone.

    The thread runs beside an import that hangs and beside a blocked event loop. A process that forks has to stop it
    first.
    """

    def __init__(self, connection: int, grace: float) -> None:
        super().__init__(name="pywatt supervisor watch", daemon=True)
        self._connection = connection
        self._grace = grace
        self._waiting, self._wake = socket.socketpair()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._connection, 0)  # the end of the other side is told in any case
        poll.register(self._waiting, select.POLLIN)
        if any(descriptor == self._waiting.fileno() for descriptor, _ in poll.poll()):
            return
        if not select.select((self._waiting,), (), (), self._grace)[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    def stop(self) -> None:
        """End the thread."""
        self._wake.close()
        self.join()
        self._waiting.close()


def continue_without_supervisor() -> None:
    """Let the kernel continue this process when its parent ends, in case it is stopped then (Linux; prctl(2))."""
    if sys.platform == "linux":
        import_module("ctypes").CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
