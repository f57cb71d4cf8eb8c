"""What the changes mean that watchfiles reports."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

DEBOUNCE_MS = 200  # changes are collected for so long at most
QUIET_MS = 50  # changes are acted on after so long without a further change
_ADDED = 1  # watchfiles.Change.added


def changed_files(changes: Iterable[tuple[int, str]]) -> Iterator[Path]:
    """The files that changed, with the files of new folders, without files that existed only for a moment, and without
    the files that this process writes its output to: each line of it would be a change."""
    changes = {change for change in changes if not _is_our_output(change[1])}
    added = {name for kind, name in changes if kind == _ADDED}
    for name in {name for _, name in changes}:
        path = Path(name)
        if not path.is_dir():
            if name not in added or path.exists():
                yield path
        elif name in added:
            for folder, _, names in os.walk(path):
                yield from (Path(folder, each) for each in names)


def forget_bytecode(paths: Iterable[Path]) -> None:
    """Delete the cached bytecode of changed files. Python compares the size of a source file and its time in whole
    seconds, and so misses the second of two saves within one second."""
    for path in paths:
        if path.suffix == ".py":
            with suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))


def _is_our_output(path: str) -> bool:
    """Whether standard output or standard error goes to this file."""
    try:
        found = os.stat(path)
        return any(os.path.samestat(found, os.fstat(descriptor)) for descriptor in (1, 2))
    except OSError:  # the file has gone, or a stream is closed
        return False
