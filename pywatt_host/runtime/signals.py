"""Signals that ask the process to stop, and the thread that ends it if stopping takes too long."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class ShutdownWatch(threading.Thread):
    """Calls `overdue` a number of seconds after `begin`, even if the event loop hangs.

    The thread is started beforehand, since a signal handler must not start one. It is a daemon thread, so that a hang
    after the end of the event loop does not keep the process alive either.
    """

    def __init__(self, overdue: Callable[[], None]) -> None:
        super().__init__(name="pywatt shutdown watch", daemon=True)
        self._overdue = overdue
        self._begun = threading.Event()
        self._released = threading.Event()
        self._seconds = 0.0

    def begin(self, seconds: float) -> None:
        """Call `overdue` in so many seconds, unless `release` is called before."""
        self._seconds = seconds
        self._begun.set()

    def release(self) -> None:
        """Never call `overdue`, and end the thread."""
        self._released.set()
        self._begun.set()

    def run(self) -> None:
        self._begun.wait()
        if not self._released.wait(self._seconds):
            self._overdue()


class StopSignals:
    """Calls `stop` with the signal's name for each signal that asks a process to end: SIGTERM, SIGINT (Ctrl-C) and
    SIGQUIT (Ctrl-\\). Leaving restores the previous handlers.

    With `loop`, `stop` runs on that event loop. Without it, `stop` runs in the signal handler itself, even if the event
    loop hangs, and has to be safe there. In another thread than the main thread this does nothing, since Python handles
    signals in the main thread only.
    """

    def __init__(self, stop: Callable[[str], None], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._stop = stop
        self._loop = loop
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._loop is None:
            self._stop(name)
        else:
            self._loop.call_soon_threadsafe(self._stop, name)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
