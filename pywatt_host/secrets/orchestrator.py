"""Secrets of the orchestrator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pywatt_host.exceptions import MessagingError, SecretError

_ABSENT = frozenset({"unknown_secret", "not_found", "unsupported"})


class OrchestratorSource:
    """Asks over whatever channel there is. `fetch` raises MessagingError, `unknown_secret` where it has none."""

    label = "orchestrator"
    watched = False  # it says so when a secret rotates

    def __init__(self, fetch: Callable[[str], Awaitable[str]]) -> None:
        self._fetch = fetch

    async def get(self, name: str) -> str | None:
        try:
            return await self._fetch(name)
        except MessagingError as error:
            if error.code in _ABSENT:
                return None
            raise SecretError(f"the orchestrator did not give {name}: {error.message}") from error

    def identity(self) -> object:
        return None
