"""Signals that ask the process to stop, and the thread that ends it when stopping takes too long."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


class ShutdownWatch(threading.Thread):
    """Calls `overdue` so many seconds after `begin`, whatever the event loop does; a thread that stands ready, since
    a signal handler must not start one. A daemon: what hangs after the loop's end must not hold the process either."""

    def __init__(self, overdue: Callable[[], None]) -> None:
        super().__init__(name="pywatt shutdown watch", daemon=True)
        self._overdue = overdue
        self._begun = threading.Event()
        self._released = threading.Event()
        self._seconds = 0.0

    def begin(self, seconds: float) -> None:
        self._seconds = seconds
        self._begun.set()

    def release(self) -> None:
        """Nothing is watched any more."""
        self._released.set()
        self._begun.set()

    def run(self) -> None:
        self._begun.wait()
        if not self._released.wait(self._seconds):
            self._overdue()


class Signals:
    """SIGTERM and SIGINT ask to stop. Plain handlers, which run even when the event loop hangs."""

    def __init__(self, stop: Callable[[str], None]) -> None:
        self._stop = stop
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._stop(signal.Signals(number).name)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
