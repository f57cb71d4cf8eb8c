"""Checks of `databases` and `caches` beyond their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.stores import MEMORY_KEYS, ORCHESTRATOR, scheme_of
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import KeyPath, Severity

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]


class StoreChecks:
    """Reports faults with `add`. `unset` says whether a value was left out because a variable is not set."""

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
            self._orchestrator_urls()
        for name, cache in self._document.caches.items():
            scheme = scheme_of(cache.url)
            if scheme in (None, "memory"):
                continue
            for key in sorted(cache.model_fields_set & MEMORY_KEYS):
                message = f"this key does not apply to {scheme}, only to memory"
                self._add(
                    ("caches", name, key), "conflict", message, "remove it; the server has its own limits", "error"
                )

    def _orchestrator_urls(self) -> None:
        urls = {("databases", name, "url"): each.url for name, each in self._document.databases.items()}
        urls |= {("caches", name, "url"): each.url for name, each in self._document.caches.items()}
        for path, url in urls.items():
            if scheme_of(url) == ORCHESTRATOR:
                message = "the orchestrator cannot get a store from itself"
                self._add(path, "conflict", message, "write the URL of the store", "error")

    def _script(self, path: KeyPath, name: str) -> None:
        try:
            there = self._document.resolve(name).is_file()
        except (OSError, ValueError):  # the name is not valid
            there = False
        if not there:
            hint = "the path is relative to the manifest's folder"
            self._add(path, "no-file", f"file not found: {name}", hint, "error")
