"""What the edge finds: the applications by their prefixes, and the endpoints with their plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pywatt_host.http.ambiguous_paths import AmbiguousPaths
from pywatt_host.http.endpoints import Table
from pywatt_host.http.exchange import Plan
from pywatt_host.types import ASGIApp, Receive, Scope, Send


class Mount:
    """One application under its prefix: `root_path` is set, the path keeps the prefix (ASGI), the state is its own.

    `strict` says what happens to a path that can be read in two ways.
    """

    __slots__ = ("_root", "_state", "app", "prefix", "strict")

    def __init__(self, prefix: str, app: ASGIApp, strict: bool, state: dict[str, Any]) -> None:
        self.prefix = prefix
        self.app = app
        self.strict = strict
        self._root = "" if prefix == "/" else prefix
        self._state = state

    def covers(self, path: str) -> bool:
        return not self._root or path == self._root or path.startswith(self._root + "/")

    def enter(self, scope: Scope) -> None:
        """Make a scope this application's own."""
        scope["state"] = self._state.copy()
        if self._root:
            scope["root_path"] = scope.get("root_path", "") + self._root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.enter(scope)
        await self.app(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Routes:
    """Which endpoints there are.

    `closed`: what no template fits is 404, an other method 405; else such requests go to the application, under
    `unmatched`. `plan_for`, where there are rules, gives the plan for what the table found (None: nothing), a path and
    a method. `ambiguous` is None where all endpoints ask for the same.
    """

    table: Table[Plan]
    closed: bool
    unmatched: Plan
    plan_for: Callable[[Plan | None, str, str], Plan] | None = None
    ambiguous: AmbiguousPaths | None = None
