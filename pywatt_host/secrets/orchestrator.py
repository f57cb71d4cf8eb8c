"""Secrets that the orchestrator holds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pywatt_host.exceptions import MessagingError, SecretError

_ABSENT = frozenset({"unknown_secret", "not_found", "unsupported"})


class OrchestratorSource:
    """Fetches secrets from the orchestrator, over any channel that is open.

    `fetch` returns the text of a secret. It raises MessagingError, with the code `unknown_secret` if the orchestrator
    does not have the secret.
    """

    label = "orchestrator"
    watched = False  # the orchestrator sends a message when a secret rotates

    def __init__(self, fetch: Callable[[str], Awaitable[str]]) -> None:
        self._fetch = fetch

    async def get(self, name: str) -> str | None:
        try:
            return await self._fetch(name)
        except MessagingError as error:
            if error.code in _ABSENT:
                return None
            raise SecretError(f"the orchestrator did not send secret {name}: {error.message}") from error

    def identity(self) -> object:
        return None
