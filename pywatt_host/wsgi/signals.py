"""Signals from the event loop to a thread: locks that guard nothing. The thread waits until the loop releases one."""

from __future__ import annotations

import threading


def signal() -> threading.Lock:
    """A new signal. `acquire` waits until the next `notify`."""
    made = threading.Lock()
    made.acquire()
    return made


def notify(made: threading.Lock) -> None:
    """Wake the thread that waits for the signal. Only the loop calls this, so a locked signal stays locked until
    here."""
    if made.locked():
        made.release()
