"""No channel at all: the same as `links`, where a module stands alone. Nothing of the protocol is loaded for it."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pywatt_host.discovery.none import NoDiscovery, _alone
from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import Delivery, Handlers, message_type, plain
from pywatt_host.messaging.subscriptions import Topics, check_topic
from pywatt_host.observability.context import current_request
from pywatt_host.observability.health import Checks
from pywatt_host.observability.metrics import Family
from pywatt_host.service import Service

if TYPE_CHECKING:
    from pywatt_host.service import Dependant

logger = logging.getLogger("pywatt.messages")

_ITSELF = 30.0  # seconds in which a module handles what it sends to itself
T = TypeVar("T")


class NoMessages:
    """Within this process alone: a module may send to itself, and hear what it publishes. Whatever is sent to others
    fails at once."""

    def __init__(self, module_id: str) -> None:
        self.handlers = Handlers()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.topics = Topics(self.counts)
        self.vouch: object = None
        self._module_id = module_id
        self._sending: set[asyncio.Task[None]] = set()

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None
    ) -> None:
        if target != self._module_id or channel is not None:
            _alone(target)
        message_type(plain(message))
        task = asyncio.get_running_loop().create_task(self._sent(target, message))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _sent(self, target: str, message: Any) -> None:
        try:
            await self.request(target, message, _ITSELF)
        except MessagingError as error:
            logger.warning("a message to %s was not taken: %s", target, error, extra={"target": target})

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any:
        if target != self._module_id or channel is not None:
            _alone(target)
        message = plain(message)
        delivery = Delivery(self._module_id, "process", "process", time.time() + timeout)
        try:
            return await self.handlers.deliver(message_type(message), message, timeout, delivery)
        except MessagingError as error:
            error.target = target
            raise

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> None:
        delivery = Delivery(self._module_id, "process", "process")
        self.topics.deliver(check_topic(topic), plain(message), delivery, None, current_request.get())


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

    def for_messages(self, name: str) -> None:
        return None

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


class NoLinks:
    """Every way leads nowhere."""

    name = "channels"
    orchestrator_api: str | None = None
    fetch: Callable[[str], Awaitable[str]] | None = None

    def __init__(self, module_id: str) -> None:
        self.messages = self.inbox = NoMessages(module_id)
        self.discovery = NoDiscovery(module_id)
        self.late: Service = self
        self.listening: Service = self
        self.answering: tuple[Service, ...] = (self.messages.topics,)
        self.stores = None
        self.door = None

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
        self.discovery.announce(address)

    def draining(self) -> None:
        return

    def dependants(self) -> list[Dependant]:
        return []

    def add_checks(self, checks: Checks) -> None:
        return

    def families(self) -> Iterator[Family]:
        return iter(())
