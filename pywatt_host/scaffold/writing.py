"""Writes all files or none, and replaces existing files only when asked to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pywatt_host.exceptions import HostError


class CannotWriteError(HostError):
    """A file could not be written; the text says which and why. New files have been removed again."""


def in_the_way(folder: Path, names: Iterable[str]) -> list[str]:
    """The names that already exist in the folder, including broken symbolic links."""
    return [name for name in names if os.path.lexists(folder / name)]


def write(folder: Path, files: Mapping[str, str], *, replacing: bool = False) -> None:
    """Write files into a folder, which is created if it does not exist. Each file is written under a temporary name and
    then renamed, so that it is complete as soon as it is visible. With `replacing`, existing files are replaced.

    Raises CannotWriteError after removing the new files and folders. Files that were replaced by then stay replaced.
    """
    made: list[Path] = []
    current = folder
    try:
        for missing in reversed([each for each in (folder, *folder.parents) if not os.path.lexists(each)]):
            current = missing
            missing.mkdir()
            made.append(missing)
        for name, text in files.items():
            current = folder / name
            with _temporary(current).open("xb") as file:
                made.append(_temporary(current))
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        for name in files:
            current = folder / name
            there = os.path.lexists(current)
            if there and not replacing:
                raise FileExistsError(0, "another process has just created it")
            _temporary(current).rename(current)
            if not there:
                made.append(current)
    except BaseException as exc:
        _remove(made)
        if isinstance(exc, OSError):
            reason = (exc.strerror or str(exc)).lower()
            raise CannotWriteError(f"{os.fsencode(current).decode('utf-8', 'replace')}: {reason}") from exc
        raise


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove(made: Iterable[Path]) -> None:
    """Remove files and folders, the newest first. Errors are ignored: the user sees the error of writing instead."""
    for path in reversed(list(made)):
        try:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue
