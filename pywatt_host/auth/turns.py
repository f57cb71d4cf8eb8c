"""Takes turns between clients: verifying credentials for one address does not take all threads, or all places."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import TypeAlias

from pywatt_host.auth.identity import UnavailableError

MAX_PENDING = 8  # verifications of one client that run or wait

Turn: TypeAlias = AbstractAsyncContextManager[None]


class Turns:
    """Of each client, one verification runs and a few wait. Clients without an address are not bounded here."""

    def __init__(self, most: int = MAX_PENDING) -> None:
        self._most = most
        self._clients: dict[str, _ClientTurns] = {}

    def of(self, client: str) -> Turn:
        """Take a place, which must be entered as a context; that waits for the verifications before it. Raises
        UnavailableError (`busy`) where the client has too many."""
        if not client:
            return nullcontext()
        turns = self._clients.get(client)
        if turns is None:
            turns = self._clients[client] = _ClientTurns(self._clients, client)
        elif turns.pending >= self._most:
            raise UnavailableError("busy")
        turns.pending += 1
        return turns


class _ClientTurns:
    """The verifications of one client. It is forgotten with the last of them."""

    __slots__ = ("_client", "_clients", "_lock", "pending")

    def __init__(self, clients: dict[str, _ClientTurns], client: str) -> None:
        self._clients = clients
        self._client = client
        self._lock = asyncio.Lock()
        self.pending = 0

    async def __aenter__(self) -> None:
        try:
            await self._lock.acquire()
        except asyncio.CancelledError:
            self._left()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        self._left()

    def _left(self) -> None:
        self.pending -= 1
        if not self.pending:
            del self._clients[self._client]
