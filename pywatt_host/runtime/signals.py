"""Signals that ask the process to stop or for something else, and a thread that ends it if stopping takes too long."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

logger = logging.getLogger("pywatt.host")

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
    """Calls `stop` with the signal's name for each signal that asks a process to end: SIGTERM, SIGINT (Ctrl-C),
    SIGQUIT (Ctrl-\\), and those in `also`. Leaving restores the previous handlers.

    With `loop`, `stop` runs on that event loop. Without it, `stop` runs in the signal handler itself, even if the event
    loop hangs, and has to be safe there. In another thread than the main thread this does nothing, since Python handles
    signals in the main thread only.
    """

    def __init__(
        self,
        stop: Callable[[str], None],
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        also: Sequence[signal.Signals] = (),
    ) -> None:
        self._stop = stop
        self._loop = loop
        self._numbers = (*STOP_SIGNALS, *also)
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
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


class OtherSignals:
    """Calls a function on the event loop for signals that ask for something else than a stop. Leaving restores the
    previous handlers.

    A handler that the application has installed stays. In another thread than the main thread this does nothing.
    """

    def __init__(self, handlers: Mapping[signal.Signals, Callable[[], None]], loop: asyncio.AbstractEventLoop) -> None:
        self._handlers = handlers
        self._loop = loop
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in self._handlers:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._handlers[signal.Signals(number)])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._handle:  # else the application has installed its own since then
                signal.signal(number, handler)


def signals_of_one_process() -> dict[signal.Signals, Callable[[], None]]:
    """What a host that does not reload does with the signals that other servers reload or open log files with: it logs
    a line, and serves on. By default they would end the process."""
    return {
        signal.SIGHUP: _say_that_reload_is_off,
        signal.SIGUSR1: lambda: ignored(signal.SIGUSR1),
        signal.SIGUSR2: lambda: ignored(signal.SIGUSR2),
    }


def ignored(number: signal.Signals) -> None:
    """Log that a signal does nothing."""
    message = "%s is ignored: the host logs to standard error and has no log file to open again"
    logger.warning(message if number == signal.SIGUSR1 else "%s is ignored", number.name)


def _say_that_reload_is_off() -> None:
    logger.warning(
        "SIGHUP: this host does not reload, because server.reload is off; set server.reload: signal and restart it",
        extra={"key": "server.reload"},
    )
