"""No channel at all: the same as `links`, where a module stands alone. Nothing of the protocol is loaded for it."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pywatt_host.exceptions import MessagingError
from pywatt_host.handlers import Handlers
from pywatt_host.http.health import Checks
from pywatt_host.http.metrics import Family
from pywatt_host.service import Service

if TYPE_CHECKING:
    from pywatt_host.protocol.messages import Provider
    from pywatt_host.rotation import Dependant

T = TypeVar("T")


def _alone(target: str) -> NoReturn:
    why = "there is no orchestrator; run the module under one, or give it channels"
    raise MessagingError("unavailable", why, target)


class NoMessages:
    """Handlers may be registered: only the control socket reaches them. Whatever is sent fails at once."""

    def __init__(self) -> None:
        self.handlers = Handlers()
        self.vouch: object = None

    async def send(self, target: str, message: Any, authorization: str | None = None) -> None:
        _alone(target)

    async def request(self, target: str, message: Any, timeout: float, authorization: str | None = None) -> Any:
        _alone(target)


class NoDiscovery:
    """Nobody to register with, nobody to ask."""

    async def register(
        self, name: str, service_type: str, address: str, version: str | None, metadata: Mapping[str, str] | None
    ) -> str:
        _alone(name)

    async def discover(self, service_type: str) -> list[Provider]:
        _alone(service_type)


class NoSchemes:
    """Nobody is asked who they are."""

    name = "auth"

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.all: dict[str, Any] = {}

    def guard(self, requirement: object) -> None:
        return None

    vouch = None

    def dependants(self) -> list[Dependant]:
        return []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    async def check(self) -> None:
        return


class NoPolicy:
    """Everything is tried once, for as long as its caller says."""

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[T]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> T:
        return await attempt(timeout)


class NoResilience:
    """Neither timeouts nor retries nor circuit breakers."""

    for_url: None = None

    def __init__(self) -> None:
        self._policy = NoPolicy()

    def for_module(self, name: str) -> NoPolicy:
        return self._policy

    def for_client(self, name: str) -> NoPolicy:
        return self._policy

    def clients(self) -> Mapping[str, Any]:
        return {}

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())


async def nowhere(name: str) -> NoReturn:
    """Where module:// URLs lead without an orchestrator. Raises MessagingError."""
    _alone(name)


def nowhere_blocking(name: str) -> NoReturn:
    _alone(name)


class NoStores:
    """Neither databases nor caches."""

    name = "stores"

    def __init__(self) -> None:
        self.databases: dict[str, Any] = {}
        self.caches: dict[str, Any] = {}

    def dependants(self) -> list[Dependant]:
        return []

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    async def check(self) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())


class NoLinks:
    """Every way leads nowhere."""

    name = "channels"
    orchestrator_api: str | None = None
    fetch: Callable[[str], Awaitable[str]] | None = None

    def __init__(self) -> None:
        self.messages = NoMessages()
        self.discovery = NoDiscovery()
        self.late: Service = self
        self.listening: Service = self
        self.answering: tuple[Service, ...] = ()
        self.stores = None

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        yield

    async def check(self) -> None:
        return

    def attend(self, rotated: object, shutdown: object, lost: object) -> None:
        return

    def open_doors(self) -> None:
        return

    def close_doors(self) -> None:
        return

    def announce(self, address: str, endpoints: Iterable[tuple[str, tuple[str, ...], str]]) -> None:
        return

    def draining(self) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())
