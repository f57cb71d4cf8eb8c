"""The interface of the kinds of database: a backend opens connections, and a connection runs statements.

A backend opens no connection when it is made. A pool calls it, and never asks for more connections than its maximum.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, TypeAlias

from pywatt_host.exceptions import StoreError
from pywatt_host.stores.databases.row import Row
from pywatt_host.stores.databases.statement import Arguments

Isolation: TypeAlias = Literal["read_committed", "repeatable_read", "serializable"]


class DatabaseSession(Protocol):
    """One connection to a server or to a file, for one task at a time.

    Every method raises StoreError, and no other exception of the driver. If a statement is cancelled, the session is
    either usable again or `broken` before the cancellation continues.
    """

    broken: bool  # it must be closed and not be used again

    async def fetch(self, text: str, arguments: Arguments, limit: int | None) -> Sequence[Row]:
        """Return the rows, at most `limit` of them. The server may be asked for no more."""

    async def execute(self, text: str, arguments: Arguments) -> int:
        """Return how many rows the statement changed; 0 if it changes none."""

    async def execute_many(self, text: str, many: Sequence[Arguments]) -> int:
        """Run the statement once for each entry, all of them or none; return how many rows they changed together."""

    def iterate(self, text: str, arguments: Arguments, chunk: int) -> AsyncGenerator[Sequence[Row], None]:
        """Yield the rows, `chunk` of them at a time, in a transaction if the server needs one. Closing the generator
        early leaves nothing behind."""

    async def begin(self, *, readonly: bool, isolation: Isolation | None) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...

    async def savepoint(self, name: str) -> None: ...

    async def release_savepoint(self, name: str) -> None: ...

    async def rollback_to(self, name: str) -> None: ...

    async def apply_once(self, key: str, digest: str, script: str) -> str | None:
        """Run a script and record `key` and `digest`, unless `key` is recorded already. Only one process does so at a
        time. Return the digest that was recorded before, or None if the script ran now."""


class Backend(Protocol):
    """The connections for one URL. `size` is the number of open connections, `idle` the number of those not in use."""

    kind: str

    @property
    def size(self) -> int: ...

    @property
    def idle(self) -> int: ...

    async def open(self) -> None:
        """Prepare, without connecting. Raises StoreError (`arguments`)."""

    async def acquire(self) -> DatabaseSession:
        """Return an idle connection or a new one. Raises StoreError. A call that is cancelled leaves nothing behind."""

    async def release(self, session: DatabaseSession) -> None:
        """Take the connection back, or close it if it is broken."""

    async def close(self) -> None:
        """Close all connections at once, also those in use. Raises nothing."""


def commit_unknown(error: StoreError, code: str = "") -> StoreError:
    """Return `error` with the addition that it is unknown whether the server committed the transaction."""
    message = f"{error.message}; it is unknown whether the transaction was committed"
    return StoreError(error.store, code or error.code, message)
