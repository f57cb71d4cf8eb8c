"""What a kind of database gives: connections that know how to run statements, and how many there are.

A backend opens nothing when it is made. It is asked by a pool, never for more than the pool's bound.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeAlias

from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments

Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]


class DatabaseSession(Protocol):
    """One connection to a server, or to a file. Used by one task at a time.

    Every method raises StoreError, and nothing else of the driver's. Cancelled in the middle of a statement it is
    either usable again or `broken`, before the cancellation goes on.
    """

    broken: bool  # to be closed, not to be used again

    async def fetch(self, text: str, arguments: Arguments, most: int | None) -> Sequence[Row]:
        """The rows, `most` of them at most: the server may be asked for no more."""

    async def execute(self, text: str, arguments: Arguments) -> int:
        """How many rows it changed; 0 where the statement changes none."""

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        """Once for each, all or none of them; how many rows they changed together."""

    def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        """The rows, `chunk` of them at a time. In a transaction, where the server needs one for it. Closed early,
        nothing of it is left behind."""

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...

    async def savepoint(self, name: str) -> None: ...

    async def release_savepoint(self, name: str) -> None: ...

    async def rollback_to(self, name: str) -> None: ...

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        """Run a script and record `key` with it, unless that has been done, while nobody else does. Gives the digest
        that was recorded before; None where the script ran now."""


class Backend(Protocol):
    """The connections of one URL. `size` counts those that are open, `idle` those of them that nobody uses."""

    kind: str

    @property
    def size(self) -> int: ...

    @property
    def idle(self) -> int: ...

    async def open(self) -> None:
        """Get ready; connects to nothing yet. Raises StoreError (`arguments`)."""

    async def acquire(self) -> DatabaseSession:
        """An idle connection, or a new one. Raises StoreError; cancelled, nothing is left behind."""

    async def release(self, session: DatabaseSession) -> None:
        """Take it back. One that is broken is closed."""

    async def close(self) -> None:
        """Close what is idle, and what is in use at once. Does not raise."""
