"""The mounted applications and the table of endpoints, as the edge uses them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pywatt_host.http.ambiguous_paths import AmbiguousPaths
from pywatt_host.http.endpoints import Table
from pywatt_host.http.exchange import Plan
from pywatt_host.manifest.values.paths import covers
from pywatt_host.types import ASGIApp, Receive, Scope, Send


class Mount:
    """An application under its prefix. Its requests get the prefix as `root_path` and keep it in the path (ASGI), and
    they get a copy of the application's state.

    With `strict`, paths that can be read in more than one way are refused.
    """

    __slots__ = ("_root", "_state", "app", "prefix", "strict")

    def __init__(self, prefix: str, app: ASGIApp, strict: bool, state: dict[str, Any]) -> None:
        self.prefix = prefix
        self.app = app
        self.strict = strict
        self._root = prefix.rstrip("/")
        self._state = state

    def covers(self, path: str) -> bool:
        """Whether requests to the path may be for this application."""
        return covers(self._root, path)

    def around(self, wrap: Callable[[ASGIApp], ASGIApp]) -> Mount:
        """This mount with its application wrapped."""
        return Mount(self.prefix, wrap(self.app), self.strict, self._state)

    def enter(self, scope: Scope) -> None:
        """Set the state and the `root_path` of a scope for this application."""
        scope["state"] = self._state.copy()
        if self._root:
            scope["root_path"] = scope.get("root_path", "") + self._root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.enter(scope)
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Routes:
    """The endpoints of a host.

    Where `closed`, a path that no template matches is answered with 404 and another method with 405; else such requests
    go to the application with the plan `unmatched`. `plan_for`, where there are rules, gives the plan for the result of
    the table (None: no match), a path and a method. `ambiguous` is None where all endpoints need the same credential.
    """

    table: Table[Plan]
    closed: bool
    unmatched: Plan
    plan_for: Callable[[Plan | None, str, str], Plan] | None = None
    ambiguous: AmbiguousPaths | None = None
