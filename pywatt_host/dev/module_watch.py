"""Which modules of a workspace are to be restarted when files change."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from pywatt_host.dev.changes import WatchedFiles, watched_files
from pywatt_host.dev.file_events import DEBOUNCE_MS, QUIET_MS, changed_files, forget_bytecode
from pywatt_host.exceptions import ServiceError
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.workspace import manifest_file, script_of_module


class ModuleWatch:
    """Watches the files of all modules: code, manifests, and the `.env` beside each manifest."""

    def __init__(
        self,
        workspace: Workspace,
        manifests: Mapping[str, Manifest],
        read_at_start: Mapping[Path, str],
        unread: Callable[[str], None],
    ) -> None:
        """`manifests` always has the newest manifests that could be read. `read_at_start` are files that only a new
        start of `up` reads, with their names; `unread` is called with that name when one changes."""
        self._workspace = workspace
        self._manifests = manifests
        self._read_at_start = {Path(os.path.realpath(path)): name for path, name in read_at_start.items()}
        self._unread = unread
        self._roots: tuple[Path, ...] = ()
        self._stop = asyncio.Event()

    async def run(self, changed: Callable[[str, set[Path]], None]) -> None:
        """Call `changed` with each module and its files that changed, until this is cancelled. Raises ServiceError
        where files cannot be watched."""
        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it logs every change, also those that do not count
        awatch = import_module("watchfiles").awatch
        while True:
            self._stop = stop = asyncio.Event()
            self._roots = self._all_roots()
            try:
                async for changes in awatch(
                    *self._roots, watch_filter=None, debounce=DEBOUNCE_MS, step=QUIET_MS, stop_event=stop,
                    ignore_permission_denied=True,
                ):  # fmt: skip
                    self._note(set(changed_files(changes)), changed)
            except (OSError, RuntimeError) as error:  # watchfiles' own errors are RuntimeErrors
                raise ServiceError("watch", f"files cannot be watched: {error}") from error

    def reloaded(self) -> None:
        """Watch other folders, if a manifest that was read again names others."""
        if self._all_roots() != self._roots:
            self._stop.set()

    def _all_roots(self) -> tuple[Path, ...]:
        everything = [self.files_of(id) for id in self._workspace.modules]
        folders = tuple(folder for each in everything for folder in each.folders)
        files = frozenset(file for each in everything for file in each.files) | frozenset(self._read_at_start)
        return WatchedFiles(folders, files).roots()

    def _note(self, paths: set[Path], changed: Callable[[str, set[Path]], None]) -> None:
        for path in sorted(paths & self._read_at_start.keys()):
            self._unread(self._read_at_start[path])
        for id in self._workspace.modules:
            found = {path for path in paths if self._is_of(id, path)}
            if found:
                forget_bytecode(found)
                changed(id, found)

    def files_of(self, id: str) -> WatchedFiles:
        """The files whose changes restart a module."""
        workspace, declared = self._workspace, self._workspace.modules[id]
        if declared.manifest is None:
            return self._files_of_command(id)
        manifest, own = self._manifests.get(id), manifest_file(workspace, id)
        if manifest is None:  # a Python file that could not be imported yet
            return WatchedFiles((_real(own.parent),), frozenset((_real(own),)))
        watched = watched_files(manifest, env_file=manifest.directory / ".env")
        return replace(watched, files=watched.files | {_real(own)})

    def _files_of_command(self, id: str) -> WatchedFiles:
        """The working directory of a command; if that is the folder of the workspace, the files that it names."""
        workspace, declared = self._workspace, self._workspace.modules[id]
        folder = workspace.resolve(declared.working_dir)
        named = (Path(os.path.abspath(folder / word)) for word in declared.command or ())
        files = frozenset(_real(path) for path in named if path.is_file())
        own = os.path.realpath(folder) != os.path.realpath(workspace.directory)
        return WatchedFiles((_real(folder),) if own else (), files)

    def _is_of(self, id: str, path: Path) -> bool:
        """Whether a change of this file restarts the module: not if the file is the manifest or the Python file of
        another one, or in the folder of another one within its own."""
        files = self.files_of(id)
        if not files.restarts(path) or path in self._read_at_start:
            return False
        if path in files.files:
            return True
        for other in self._workspace.modules:
            if other == id:
                continue
            theirs = self.files_of(other)
            if path in theirs.files and not self._imports(id, path):
                return False
            deeper = [folder for folder in theirs.folders if path.is_relative_to(folder)]
            if any(folder != own and folder.is_relative_to(own) for own in files.folders for folder in deeper):
                return False
        return True

    def _imports(self, id: str, path: Path) -> bool:
        """Whether the Python file of a module imports a module of that name."""
        script = script_of_module(self._workspace, id)
        if script is None or path.suffix != ".py":
            return False
        try:
            text = script.path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return re.search(rf"^\s*(?:from|import)\b.*\b{re.escape(path.stem)}\b", text, re.MULTILINE) is not None


def _real(path: Path) -> Path:
    """The path as changes are reported."""
    return Path(os.path.realpath(path)) if path.is_dir() else Path(os.path.realpath(path.parent)) / path.name


def files_read_at_start(workspace: Workspace, files: Iterable[Path | None]) -> dict[Path, str]:
    """The wattson.yaml and further files that `up` reads when it starts."""
    found = [path for path in (workspace.source, *files) if path is not None]
    return {path: path.name for path in found}
