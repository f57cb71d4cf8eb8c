"""Whether `databases` and `caches` fit the folder and each other: what no single section can see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.stores import ORCHESTRATOR, scheme_of
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import KeyPath, Severity

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]

_OF_MEMORY = ("max_entries", "max_bytes")


class StoreChecks:
    """Reports through `add`; `unset` says whether a value was left out because a variable is not set."""

    def __init__(self, document: Manifest | Workspace, add: Add, unset: Callable[[KeyPath], bool]) -> None:
        self._document = document
        self._add = add
        self._unset = unset

    def check(self) -> None:
        for name, database in self._document.databases.items():
            path: KeyPath = ("databases", name, "init")
            if database.init is not None and not self._unset(path):
                self._script(path, database.init)
        if isinstance(self._document, Workspace):
            self._not_itself()
        for name, cache in self._document.caches.items():
            scheme = scheme_of(cache.url)
            if scheme in (None, "memory"):
                continue
            for key in sorted(cache.model_fields_set & {*_OF_MEMORY}):
                message = f"says nothing for {scheme}: it is for memory"
                self._add(("caches", name, key), "conflict", message, "the server has bounds of its own", "error")

    def _not_itself(self) -> None:
        urls = {("databases", name, "url"): each.url for name, each in self._document.databases.items()}
        urls |= {("caches", name, "url"): each.url for name, each in self._document.caches.items()}
        for path, url in urls.items():
            if scheme_of(url) == ORCHESTRATOR:
                message = "this is the orchestrator: it cannot ask itself"
                self._add(path, "conflict", message, "give the URL of the store itself", "error")

    def _script(self, path: KeyPath, name: str) -> None:
        try:
            there = self._document.resolve(name).is_file()
        except (OSError, ValueError):  # a name that no file system takes
            there = False
        if not there:
            self._add(path, "no-file", f"no such file: {name}", "it is relative to the manifest's folder", "error")
