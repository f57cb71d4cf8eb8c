"""Signals that ask a command to end before its event loop handles them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pywatt_host.runtime.hangup import has_terminal

_NUMBERS = (signal.SIGTERM, signal.SIGQUIT)


class StopRequestedError(BaseException):
    """A signal has asked this process to end. It is no Exception, so that nothing on the way takes it for a fault."""

    def __init__(self, signal_name: str) -> None:
        self.signal_name = signal_name
        super().__init__(signal_name)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise StopRequestedError within the block for SIGTERM, SIGQUIT, and for a SIGHUP of a terminal that was closed.
    Any other SIGHUP does nothing, since there is nothing yet that could reload.

    A signal that reaches this process while it waits for a child ends the wait, and the child is killed on the way out.
    In another thread than the main thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, _stop) for number in _NUMBERS}
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup
    if not ignored:
        previous[signal.SIGHUP] = signal.signal(signal.SIGHUP, _hung_up if has_terminal() else _no_reload)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    raise StopRequestedError(signal.Signals(number).name)


def _hung_up(number: int, frame: FrameType | None) -> None:
    if not has_terminal():
        raise StopRequestedError("SIGHUP: the terminal was closed")


def _no_reload(number: int, frame: FrameType | None) -> None:
    return
