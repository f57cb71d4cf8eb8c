"""AppState: all that the user's code sees of the host."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pywatt_host.hooks import Hook, Hooks
from pywatt_host.http.appmetrics import Metrics
from pywatt_host.http.health import CheckFunction, Checks
from pywatt_host.manifest.model import Manifest

H = TypeVar("H", bound=Hook)
C = TypeVar("C", bound=CheckFunction)


class AppState:
    """Handed to the factory; in requests at `scope["state"]["pywatt"]` (ASGI) and `environ["pywatt.state"]` (WSGI).

    Lives from before the application's import to the end of the process.
    """

    def __init__(self, manifest: Manifest, metrics: Metrics, checks: Checks, hooks: Hooks) -> None:
        self.manifest = manifest
        self.metrics = metrics
        self.logger = logging.getLogger(f"app.{manifest.module_id}")
        self._checks = checks
        self._hooks = hooks

    @property
    def module_id(self) -> str:
        """The module's name: `module.id`, else the name of the manifest's folder."""
        return self.manifest.module_id

    @property
    def config(self) -> Mapping[str, Any]:
        """The manifest's free-form `config`, read-only."""
        return MappingProxyType(self.manifest.config)

    def health_check(self, name: str) -> Callable[[C], C]:
        """Decorator: a function, sync or async, that returns when healthy and raises saying why when not.

        Raises ValueError where the name is taken.
        """

        def register(function: C) -> C:
            self._checks.add(name, function)
            return function

        return register

    def on_startup(self, hook: H) -> H:
        """Decorator: run the function, sync or async, after the application has started and before requests arrive.

        Hooks run in the order in which they were registered. One that raises stops the start (exit code 3).
        """
        self._hooks.startup.append(hook)
        return hook

    def on_shutdown(self, hook: H) -> H:
        """Decorator: run the function, sync or async, after the last request, before the lifespan ends.

        Hooks run in reverse order. One that raises is logged; the others still run.
        """
        self._hooks.shutdown.append(hook)
        return hook

    def __repr__(self) -> str:
        return f"<AppState {self.module_id}>"
