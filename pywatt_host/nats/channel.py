"""All parts that use NATS for one module: connection, messages, queue and registry."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pywatt_host.manifest.model import NatsChannel
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import EventHandler
from pywatt_host.nats.connection import NatsConnection
from pywatt_host.nats.jetstream import WorkQueue
from pywatt_host.nats.messages import NatsMessages
from pywatt_host.nats.registry import NatsRegistry
from pywatt_host.nats.subjects import Subjects
from pywatt_host.service import Prepared, Service

if TYPE_CHECKING:
    from nats.aio.client import Client


class NatsMessaging:
    """Makes the parts, and gives them as services."""

    def __init__(
        self,
        settings: NatsChannel,
        inbox: Inbox,
        topics: Callable[[], Sequence[str]],
        event: EventHandler,
        *,
        secret_values: Callable[[], Mapping[str, str]],
        resolve: Callable[[str], Path],
        timeout: float,
        healthy: Callable[[], bool],
        private: Callable[[str, str], Awaitable[str]] | None,
    ) -> None:
        subjects = Subjects(settings.prefix, inbox.module_id)
        self.connection = NatsConnection(
            inbox.module_id,
            settings,
            subjects.inbox,
            secret_values=secret_values,
            resolve=resolve,
            timeout=timeout,
            private=private,
        )
        self.queue = WorkQueue(self.connection, subjects, inbox) if settings.delivery == "at_least_once" else None
        self.messages = NatsMessages(self.connection, subjects, inbox, topics, event, self.queue)
        self.registry = NatsRegistry(self.connection, subjects, inbox.module_id, healthy)
        self.dependant = _Credentials(self.connection)

    def answering(self, inbox: Inbox) -> tuple[Service, ...]:
        """The inbox together with the services that fill it, in the order in which they are entered."""
        if self.queue is None:
            return (self.registry, inbox, self.messages)
        return (self.registry, _Acknowledgements(self.queue), inbox, self.queue, self.messages)

    def withdraw(self) -> None:
        """Remove the module from the registry, since it is about to stop."""
        self.registry.withdraw()


class _Acknowledgements:
    """Surrounds the inbox: leaving waits until the handled messages are acknowledged."""

    name = "acknowledgements"

    def __init__(self, queue: WorkQueue) -> None:
        self._queue = queue

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        async with self._queue.keeping_in_progress():
            yield


class _Credentials:
    """Follows a rotation of secrets: it connects with the new credentials beside the present client, then switches."""

    name = "channels.nats"

    def __init__(self, connection: NatsConnection) -> None:
        self.names = connection.secrets
        self._connection = connection

    async def prepare(self, secret_values: Mapping[str, str]) -> Prepared:
        return _NewConnection(self._connection, await self._connection.open(secret_values))


class _NewConnection:
    def __init__(self, connection: NatsConnection, client: Client) -> None:
        self._connection = connection
        self._client = client

    def commit(self) -> None:
        self._connection.replace(self._client)

    def discard(self) -> None:
        self._connection.discard(self._client)
