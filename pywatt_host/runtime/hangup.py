"""SIGHUP to `up`: a request to reload, or the end of its terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any


class HangupSignal:
    """Calls `reload` on the event loop for each SIGHUP. Leaving restores the previous handler.

    A terminal that is closed sends SIGHUP too. Then `closed` is called instead, where the process had a terminal and
    did not ignore SIGHUP when it was started, as it does under `nohup`. In another thread than the main thread this
    does nothing, since Python handles signals in the main thread only.
    """

    def __init__(
        self, reload: Callable[[], None], closed: Callable[[str], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._reload = reload
        self._closed = closed
        self._loop = loop
        self._previous: Any = None
        self._installed = False
        self._ends_with_terminal = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGHUP, self._handle)
            self._installed = True
            self._ends_with_terminal = self._previous != signal.SIG_IGN and has_terminal()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._decide)

    def _decide(self) -> None:
        if self._ends_with_terminal and not has_terminal():
            self._closed("the terminal was closed")
        else:
            self._reload()

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGHUP, self._previous)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that is still open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
