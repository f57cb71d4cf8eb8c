"""The stores of a manifest that declares neither databases nor caches."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family

if TYPE_CHECKING:
    from pywatt_host.service import Dependant


class NoStores:
    """Has no databases and no caches, and does nothing when it starts."""

    name = "stores"

    def __init__(self) -> None:
        self.databases: dict[str, Any] = {}
        self.caches: dict[str, Any] = {}

    def add_checks(self, checks: Checks) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    def families(self) -> Iterator[Family]:
        return iter(())
