"""`server.reload: watch`: notices that the manifest, an env file or a secret directory has changed."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from itertools import repeat
from pathlib import Path

from pywatt_host.manifest import Manifest

logger = logging.getLogger("pywatt.workers")

_POLL_INTERVAL = 0.5  # seconds
_DEBOUNCE = 0.3  # seconds for which nothing must change: a file may still be being written
_MOST_WAITS = 16  # for that, of so many seconds each
_MAX_ENTRIES = 1000  # of a directory that are looked at


def watched_paths(manifest: Manifest, env_file: Path | None) -> list[Path]:
    """The files and directories whose change calls for a reload. Secrets that rotate by themselves are not among
    them."""
    found: list[Path] = []
    if manifest.source is not None:
        found.append(manifest.source)
    if env_file is not None:
        found.append(env_file)
    if isinstance(manifest.config_schema, str):
        found.append(manifest.resolve(manifest.config_schema))
    if not manifest.secrets.rotate:
        for source in manifest.secrets.sources or ():
            found += [manifest.resolve(name) for name in (source.dotenv, source.directory, source.file) if name]
    return found


def _identity(path: Path) -> tuple[object, ...]:
    """What changes when the file does, or any file of the directory. Symbolic links are followed, so that a mounted
    ConfigMap counts as changed when its link `..data` moves."""
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_ino, status.st_mtime_ns, status.st_size
        return (status.st_ino, *map(_of_entry, sorted(os.listdir(path))[:_MAX_ENTRIES], repeat(path)))
    except OSError:
        return ()


def _of_entry(name: str, folder: Path) -> tuple[object, ...]:
    """The same of a file in a directory. Folders in it, and links that lead nowhere, count by their names."""
    try:
        status = os.stat(folder / name)
    except OSError:
        return (name,)
    return (name,) if stat.S_ISDIR(status.st_mode) else (name, status.st_ino, status.st_mtime_ns, status.st_size)


def look(paths: Iterable[Path]) -> dict[Path, object]:
    """What tells later whether the files have changed since."""
    return {path: _identity(path) for path in paths}


async def watch(paths: Callable[[], list[Path]], seen: Mapping[Path, object], changed: Callable[[str], None]) -> None:
    """Call `changed` with what has changed, for as long as this is awaited. `paths` is asked before each look; `seen`
    is what `look` returned when the manifest was read. Files are polled, which works on every file system. A change
    counts once nothing has changed for a moment, or after five seconds of further changes."""
    while True:
        now = await asyncio.to_thread(look, paths())
        differing = [path for path in now if path in seen and now[path] != seen[path]]
        for _ in range(_MOST_WAITS if differing else 0):  # until it is written
            await asyncio.sleep(_DEBOUNCE)
            before, now = now, await asyncio.to_thread(look, paths())
            if before == now:
                break
        differing = [path for path in now if path in seen and now[path] != seen[path]]
        seen = now
        if differing:
            changed(f"{', '.join(path.name for path in differing)} changed")
        await asyncio.sleep(_POLL_INTERVAL)
