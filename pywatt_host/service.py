"""The one lifecycle: what every long-lived part of a host looks like from outside."""

from __future__ import annotations

from asyncio import TaskGroup
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Service(Protocol):
    """Entered in the order of the list, left in reverse.

    `running` connects, yields while the service works, and closes; tasks of its own go into `tasks`, where an
    unexpected fault stops the host. `check` returns when healthy and raises saying why when not.
    """

    name: str

    def running(self, tasks: TaskGroup) -> AbstractAsyncContextManager[None]: ...

    async def check(self) -> None: ...
