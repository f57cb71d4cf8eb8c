"""What a module that runs in the tests' process leaves behind there, and how the next test is kept free of it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


class Imported:
    """Python modules that earlier tests' modules imported from their own folders. They stay imported, as all that is
    costly to import should, until a module from another folder wants one of their names."""

    def __init__(self) -> None:
        self._by_folder: dict[str, set[str]] = {}
        self._running: list[str] = []

    @contextmanager
    def keeping(self, folders: Sequence[Path]) -> Iterator[None]:
        """Note what is imported from `folders` in the block. Afterwards sys.path is as it was before."""
        wanted = [os.path.realpath(folder) for folder in folders]
        self._make_way(wanted)
        before, path = set(sys.modules), sys.path[:]
        self._running += wanted
        try:
            yield
        finally:
            for folder in wanted:
                self._running.remove(folder)
            sys.path[:] = path
            for name in set(sys.modules) - before:
                home = _home(sys.modules[name], wanted)
                if home is not None:
                    self._by_folder.setdefault(home, set()).add(name)

    def _make_way(self, wanted: Sequence[str]) -> None:
        """Forget what was imported from a folder where one of its names means something else in those wanted now."""
        importlib.invalidate_caches()
        for folder in [each for each in self._by_folder if each not in self._running]:
            tops = {name.partition(".")[0] for name in self._by_folder[folder]}
            if any(_is_another(top, wanted) for top in tops):
                for name in self._by_folder.pop(folder):
                    sys.modules.pop(name, None)


def _home(module: ModuleType, folders: Sequence[str]) -> str | None:
    """The innermost of the folders that it was imported from, unless it belongs to an environment in there."""
    file = getattr(module, "__file__", None)
    real = os.path.realpath(file) if file else ""
    found = max((each for each in folders if real.startswith(each + os.sep)), key=len, default=None)
    return None if found is None or "site-packages" in real[len(found) :].split(os.sep) else found


def _is_another(name: str, folders: Sequence[str]) -> bool:
    spec, loaded = PathFinder.find_spec(name, folders), sys.modules.get(name)
    if spec is None or loaded is None:
        return False
    file = getattr(loaded, "__file__", None)
    if spec.origin is None or file is None:  # a package without __init__.py
        return list(spec.submodule_search_locations or ()) != list(getattr(loaded, "__path__", ()))
    return bool(os.path.realpath(spec.origin) != os.path.realpath(file))


@contextmanager
def environment_kept(names: Collection[str]) -> Iterator[None]:
    """Afterwards these variables are as they were before."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
