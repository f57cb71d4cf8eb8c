"""Says what a start is waiting for, when it takes long."""

from __future__ import annotations

import _thread
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pywatt_host.observability.user_code import is_users_file

logger = logging.getLogger("pywatt.host")

FIRST, NEXT = 2.0, 10.0  # seconds until the first line, and between two


@contextmanager
def told_when_slow(current: Callable[[], str], *, first: float = FIRST, following: float = NEXT) -> Iterator[None]:
    """While the block runs, log what the start is doing: after `first` seconds, and then every `following` seconds.

    `current` names the part of the start that runs. The line says as well where the application's own code stands, so
    that an import that waits, connects or serves is seen. A thread of its own logs, since an import blocks the event
    loop. It uses no primitive of `threading` after its start: the application may replace them while it is imported.
    """
    over = _thread.allocate_lock()
    over.acquire()
    began, main = time.monotonic(), threading.get_ident()

    def watch() -> None:
        wait = first
        while not over.acquire(True, wait):
            wait = following
            place = _place(sys._current_frames().get(main))
            logger.info(
                "still starting after %.0f s: %s%s",
                time.monotonic() - began,
                current(),
                f", at {place}" if place else "",
            )

    threading.Thread(target=watch, name="pywatt-start", daemon=True).start()
    try:
        yield
    finally:
        over.release()


def _place(frame: FrameType | None) -> str:
    """The file and line of the innermost frame of the application; empty where it is not in its own code."""
    while frame is not None:
        if is_users_file(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
