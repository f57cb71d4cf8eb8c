"""All files, or none of them; nothing that is there is touched."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pywatt_host.exceptions import HostError


class CannotWriteError(HostError):
    """A line that says what cannot be written and why. Nothing was left behind."""


def in_the_way(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that the folder has, broken links included."""
    return [name for name in names if os.path.lexists(folder / name)]


def write(folder: Path, files: Mapping[str, str], *, replacing: bool = False) -> None:
    """Write the texts into the folder, which is made where there is none, under other names first, so that a file is
    whole as soon as it can be seen. Only when `replacing` may one take another's place. Raises CannotWriteError, after
    removing all that was made; what has been replaced by then stays so."""
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
                raise FileExistsError(0, "it has just been made by something else")
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
    """Newest first. What cannot be removed stays: why nothing was written is what is told."""
    for path in reversed(list(made)):
        try:
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        except OSError:
            continue
