"""Keeps tests independent of what a module leaves behind in their common process: imports, sys.path, environment."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


class ImportedModules:
    """The Python modules that the tests so far have imported from the folders of their modules. They stay imported,
    which saves time, until a module in another folder has a Python module of the same name."""

    def __init__(self) -> None:
        self._by_folder: dict[str, set[str]] = {}
        self._running: list[str] = []

    @contextmanager
    def tracking(self, folders: Sequence[Path]) -> Iterator[None]:
        """Note what is imported from `folders` while the block runs, and restore sys.path after it."""
        wanted = [os.path.realpath(folder) for folder in folders]
        self._forget_clashes(wanted)
        before, path = set(sys.modules), sys.path[:]
        self._running += wanted
        try:
            yield
        finally:
            for folder in wanted:
                self._running.remove(folder)
            sys.path[:] = path
            for name in set(sys.modules) - before:
                home = _folder_of(sys.modules[name], wanted)
                if home is not None:
                    self._by_folder.setdefault(home, set()).add(name)

    def _forget_clashes(self, wanted: Sequence[str]) -> None:
        """Forget the modules of an earlier folder if one of their names means another module in the folders wanted
        now."""
        importlib.invalidate_caches()
        for folder in [each for each in self._by_folder if each not in self._running]:
            tops = {name.partition(".")[0] for name in self._by_folder[folder]}
            if any(_is_other_module(top, wanted) for top in tops):
                for name in self._by_folder.pop(folder):
                    sys.modules.pop(name, None)


def _folder_of(module: ModuleType, folders: Sequence[str]) -> str | None:
    """The innermost of the folders that a module was imported from. None if there is none, or if the module belongs to
    an environment (`site-packages`) in that folder."""
    file = getattr(module, "__file__", None)
    real = os.path.realpath(file) if file else ""
    found = max((each for each in folders if real.startswith(each + os.sep)), key=len, default=None)
    return None if found is None or "site-packages" in real[len(found) :].split(os.sep) else found


def _is_other_module(name: str, folders: Sequence[str]) -> bool:
    spec, loaded = PathFinder.find_spec(name, folders), sys.modules.get(name)
    if spec is None or loaded is None:
        return False
    file = getattr(loaded, "__file__", None)
    if spec.origin is None or file is None:  # a package without __init__.py
        return list(spec.submodule_search_locations or ()) != list(getattr(loaded, "__path__", ()))
    return bool(os.path.realpath(spec.origin) != os.path.realpath(file))


@contextmanager
def environment_restored(names: Collection[str]) -> Iterator[None]:
    """Restore these environment variables after the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
