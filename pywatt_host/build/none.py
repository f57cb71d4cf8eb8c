"""The channels of a host whose manifest declares none: no part of the protocol is loaded for it."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pywatt_host.discovery.none import NoDiscovery
from pywatt_host.messaging.context import Vouch
from pywatt_host.messaging.local import LocalMessages
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.observability.spans import NO_TRACER, AnyTracer
from pywatt_host.service import Service

if TYPE_CHECKING:
    from pywatt_host.service import Dependant


class NoChannels:
    """No channel leads anywhere; messages reach this process alone."""

    name = "channels"
    fetch: Callable[[str], Awaitable[str]] | None = None

    def __init__(self, module_id: str, vouch: Vouch | None = None, tracer: AnyTracer = NO_TRACER) -> None:
        self.messages = LocalMessages(module_id, vouch, tracer)
        self.discovery = NoDiscovery(module_id)
        self.connections: Sequence[Service] = ()
        self.answering: Sequence[Service] = (self.messages.topics,)
        self.server: Service | None = None
        self.stores = None
        self.http_server = None

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    def on_rotation(self, rotate: object) -> None:
        return

    def bind(self) -> None:
        return

    def close(self) -> None:
        return

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        self.discovery.announce(address)

    def hand_spans(self, encoded: bytes, spans: int, dropped: int) -> bool:
        return False

    def draining(self) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())
