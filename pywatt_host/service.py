"""The one lifecycle: what every long-lived part of a host looks like from outside."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pywatt_host.exceptions import HostError


class Service(Protocol):
    """Entered in the order of the list, left in reverse.

    `running` connects, yields while the service works, and closes; tasks of its own go into `tasks`, where an
    unexpected fault stops the host.
    """

    name: str

    def running(self, tasks: TaskGroup) -> AbstractAsyncContextManager[None]: ...


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of a group of errors: a HostError where there is one, else the first leaf."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending = [*error.exceptions, *pending]
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, HostError)), leaves[0])


class Prepared(Protocol):
    """What a dependant has ready. Exactly one of the two is called, and neither raises."""

    def commit(self) -> None:
        """Use the new values; what hangs on the old ones is drained."""

    def discard(self) -> None:
        """Stay with the old ones."""


class Dependant(Protocol):
    """A part of the host that `${secret:NAME}` stands in."""

    name: str
    names: frozenset[str]

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        """Get ready beside what is in use. `texts` are all values as they will be. Raises HostError to refuse."""
