"""The stand-in for channels where a manifest declares none: nothing of the protocol is loaded for it."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pywatt_host.discovery.none import NoDiscovery
from pywatt_host.messaging.local import LocalMessages
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.service import Service

if TYPE_CHECKING:
    from pywatt_host.service import Dependant


class NoChannels:
    """Every way leads nowhere."""

    name = "channels"
    orchestrator_api: str | None = None
    fetch: Callable[[str], Awaitable[str]] | None = None

    def __init__(self, module_id: str) -> None:
        self.messages = self.inbox = LocalMessages(module_id)
        self.discovery = NoDiscovery(module_id)
        self.late: Service = self
        self.listening: Service = self
        self.answering: tuple[Service, ...] = (self.messages.topics,)
        self.stores = None
        self.door = None

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    def attend(self, rotated: object, shutdown: object, lost: object) -> None:
        return

    def open_doors(self) -> None:
        return

    def close_doors(self) -> None:
        return

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        self.discovery.announce(address)

    def draining(self) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())
