"""Where the main thread stands while an application is imported, and whether that import serves.

An import that serves, such as one with `app.run()` at the top level of the module, never ends. It is recognised by what
every server does: it makes a socket listen, and the call that did so has not returned some seconds later.
"""

from __future__ import annotations

import _thread
import linecache
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from pywatt_host.observability.user_code import is_package_file, is_users_file

_INTERVAL = 0.25  # seconds between two looks
_QUIET = 1.0  # seconds of an import before its place is told
_SERVING_AFTER = 1.5  # seconds after which a call that made a socket listen counts as one that serves
_LINE_CHARACTERS = 80


class Watch:
    """Looks at the main thread from another one, and tells what it sees.

    `tell` gets the name of an event and its fields; it is called in the other thread. No primitive of `threading` is
    used after the start, since an application may replace them (gevent).
    """

    def __init__(self, tell: Callable[[str, dict[str, str]], None]) -> None:
        self._tell = tell
        self._main = threading.main_thread().ident
        self._stopped = _thread.allocate_lock()
        self._subject = ("", "")
        self._since = time.monotonic()
        self._bound: list[tuple[float, socket.socket, set[tuple[int, str]], str]] = []
        self._told = ""

    def start(self) -> None:
        """Look from now on."""
        self._stopped.acquire()
        sys.addaudithook(self._audit)
        threading.Thread(target=self._run, name="pywatt-inspection", daemon=True).start()

    def stop(self) -> None:
        """Tell nothing any more."""
        self._subject = ("", "")
        if self._stopped.locked():
            self._stopped.release()

    def importing(self, key: str, name: str) -> None:
        """The application that is imported from now on; an empty key: none."""
        self._subject, self._since = (key, name), time.monotonic()

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "socket.bind" or threading.get_ident() != self._main or not self._subject[0]:
            return
        stack = list(_stack(sys._getframe(1)))
        user = next((number for number, frame in enumerate(stack) if _is_users(frame)), None)
        if user:  # the frames inside of the user's line live as long as its call does
            self._bound.append((time.monotonic(), arguments[0], _identities(stack[:user]), place_of(stack[user])))

    def _run(self) -> None:
        while not self._stopped.acquire(True, _INTERVAL):
            key, name = self._subject
            frame = sys._current_frames().get(self._main or 0) if key else None
            if frame is None or time.monotonic() - self._since < _QUIET:
                continue
            stack = list(_stack(frame))
            self._look_for_server(key, stack)
            place = place_of(_told_frame(stack))
            if place != self._told:
                self._told = place
                self._tell("at", {"key": key, "app": name, "place": place})

    def _look_for_server(self, key: str, stack: list[FrameType]) -> None:
        alive = _identities(stack)
        for since, bound, inside, place in self._bound:
            if time.monotonic() - since >= _SERVING_AFTER and inside & alive and _listens(bound):
                self._tell("serves", {"key": key, "place": place, "address": _address(bound)})


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and those that called it, up to the one that imports the application."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _identities(stack: list[FrameType]) -> set[tuple[int, str]]:
    """The frames by address and name. A reference would keep their variables alive."""
    return {(id(frame), frame.f_code.co_name) for frame in stack}


def _told_frame(stack: list[FrameType]) -> FrameType:
    """The innermost frame of the user's code; without any, that of an installed package."""
    package = (each for each in stack if is_package_file(each.f_code.co_filename))
    return next((each for each in stack if _is_users(each)), None) or next(package, stack[-1])


def _is_users(frame: FrameType) -> bool:
    return is_users_file(frame.f_code.co_filename)


def place_of(frame: FrameType) -> str:
    """The place as `main.py:12 (app.run())`; a file that is not below the working directory has its whole path."""
    name, line = frame.f_code.co_filename, frame.f_lineno
    text = linecache.getline(name, line).strip()[:_LINE_CHARACTERS]
    here = os.getcwd() + os.sep
    return f"{name.removeprefix(here)}:{line}" + (f" ({text})" if text else "")


def _listens(bound: socket.socket) -> bool:
    try:
        return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:  # closed since then
        return False


def _address(bound: socket.socket) -> str:
    name = bound.getsockname()
    if isinstance(name, tuple):
        return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
    return f"unix:{os.fsdecode(name)}"
