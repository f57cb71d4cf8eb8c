"""The lifecycle that every long-lived part of a host has, and the rotation of secrets that parts follow."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pywatt_host.exceptions import HostError


class Service(Protocol):
    """A part of the host that starts and stops. Services start in order and stop in reverse.

    `running` starts the service, yields while it works, and stops it. Tasks of the service go into `tasks`, where an
    unexpected fault stops the host. `name` is what logs call the service.
    """

    name: str

    def running(self, tasks: TaskGroup) -> AbstractAsyncContextManager[None]: ...


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error to report of a group: its first HostError, else its first error."""
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
    """What a dependant has prepared for a rotation. Exactly one of the two methods is called, and neither raises."""

    def commit(self) -> None:
        """Use the new values, and drain what uses the old ones."""

    def discard(self) -> None:
        """Keep the old values."""


class Dependant(Protocol):
    """A part of the host that uses the secrets `names`, and follows their rotation."""

    name: str

    @property
    def names(self) -> frozenset[str]: ...

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        """Prepare for new values beside those in use. `secret_values` has the values of all secrets after the rotation.
        Raises HostError to refuse the rotation."""
