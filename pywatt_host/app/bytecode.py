"""Keeps Python from running what a source file was a moment ago.

Python takes the bytecode in `__pycache__` for current when the source has the same size and was changed in the same
second as the one that was compiled (PEP 3147, and `SourceLoader.get_code` in importlib). A file that is edited twice in
a second, as by a tool or a test, would be served as it was in between, by every later reload as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from typing import Any

_YOUNG = 2.0  # seconds since its last change in which a file may change again and look the same: FAT counts in twos


@contextmanager
def young_sources_not_cached() -> Iterator[None]:
    """While the block runs, no bytecode is written of source files that have changed within the last two seconds."""
    original = SourceFileLoader.set_data

    def set_data(self: SourceFileLoader, path: str, data: Any, **options: Any) -> None:
        try:
            young = time.time() - os.stat(self.path).st_mtime < _YOUNG
        except OSError:
            young = True
        if not young:
            original(self, path, data, **options)

    SourceFileLoader.set_data = set_data  # type: ignore[method-assign]
    try:
        yield
    finally:
        SourceFileLoader.set_data = original  # type: ignore[method-assign]
