"""Tracebacks that begin at the frames of the application."""

from __future__ import annotations

from collections.abc import Iterator
from traceback import StackSummary, TracebackException

from pywatt_host.observability.user_code import is_users_file


def short_traceback(error: BaseException) -> list[str]:
    """The traceback of an exception in pieces, as `traceback.format_exception` gives them, without the frames of this
    package, the standard library and installed packages that come before the first frame of the application. The last
    piece says how many frames were left out. A traceback without a frame of the application is unchanged."""
    whole = TracebackException.from_exception(error)
    hidden = 0
    if any(is_users_file(frame.filename) for each in _chain(whole) for frame in each.stack):
        for each in _chain(whole):
            first = next((number for number, frame in enumerate(each.stack) if is_users_file(frame.filename)), None)
            if first is None:  # an exception within a library, or a group: where it was raised is enough
                first = max(0, len(each.stack) - 1)
            hidden += first
            each.stack = StackSummary.from_list(each.stack[first:])
    pieces = list(whole.format())
    if hidden:
        frames = "1 frame" if hidden == 1 else f"{hidden} frames"
        pieces.append(f"  ({frames} outside the application not shown; --log-level debug shows all)\n")
    return pieces


def _chain(error: TracebackException) -> Iterator[TracebackException]:
    """An exception, and all that it came from or contains."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [
            other for other in (each.__cause__, each.__context__, *(each.exceptions or ())) if other is not None
        ]
