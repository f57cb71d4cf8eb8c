"""The schemes of a manifest that declares none."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pywatt_host.observability.health import Checks

if TYPE_CHECKING:
    from pywatt_host.service import Dependant


class NoSchemes:
    """Has no schemes: no endpoint requires a credential."""

    name = "auth"

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.all: dict[str, Any] = {}

    def guard(self, requirement: object) -> None:
        return None

    vouch = None

    def add_checks(self, checks: Checks) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield
