"""Reloads modules whose files have changed, one after the other."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pywatt_host.orchestrator.rolling import RollingReload

logger = logging.getLogger("pywatt.wattson")


class FileWatch(Protocol):
    """What notices that files of modules change."""

    async def run(self, changed: Callable[[str, set[Path]], None]) -> None:
        """Call `changed` with each module and its files that changed, until this is cancelled."""

    def reloaded(self) -> None:
        """A module was loaded again, and its files may be others."""


class ChangedModules:
    """The modules whose files have changed since they were loaded, in the order of the first change."""

    def __init__(self, directory: Path, reloaded: Callable[[], None]) -> None:
        """`reloaded` is called after each reload. Paths are shown relative to `directory`."""
        self._directory = Path(os.path.realpath(directory))
        self._reloaded = reloaded
        self._waiting: dict[str, set[Path]] = {}
        self._some = asyncio.Event()
        self._rolling: RollingReload | None = None

    def note(self, module: str, paths: set[Path]) -> None:
        """Reload the module, as soon as that is possible. A reload of it that has not replaced any process yet is given
        up: it would load what is already old."""
        self._waiting.setdefault(module, set()).update(paths)
        self._some.set()
        if self._rolling is not None:
            self._rolling.give_up(module, "its files have changed again")

    async def reload(self, rolling: RollingReload) -> None:
        """Run the reloads, for as long as this is awaited."""
        self._rolling = rolling
        while True:
            await self._some.wait()
            module = next(iter(self._waiting))
            paths = self._waiting.pop(module)
            if not self._waiting:
                self._some.clear()
            logger.info("%s changed; reloading %s", self._shown(paths), module, extra={"peer": module})
            await rolling.reload(module)
            self._reloaded()

    def _shown(self, paths: set[Path]) -> str:
        first = min(paths, key=lambda path: (path.suffix != ".py", path))
        shown = first.relative_to(self._directory) if first.is_relative_to(self._directory) else first
        return f"{shown}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
