"""The event loop and the garbage collector of a process that serves."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from importlib import import_module

_YOUNG_OBJECTS = 10_000  # container objects that are created and not freed before the garbage collector runs


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The factory of uvloop's event loops; None where uvloop is not installed."""
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def tune_collector() -> None:
    """Make the garbage collector run less often. Imported modules live as long as the process, so it need not look at
    them again. The objects of running requests alone exceed its default threshold, so it would look at all of them
    again and again."""
    gc.freeze()
    young, *older = gc.get_threshold()
    if 0 < young < _YOUNG_OBJECTS:
        gc.set_threshold(_YOUNG_OBJECTS, *older)
