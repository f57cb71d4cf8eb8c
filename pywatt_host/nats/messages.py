"""Messages and events over NATS: requests, which the processes of a module share, their replies, and topics."""

from __future__ import annotations

import asyncio
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.messaging.incoming import EventHandler
from pywatt_host.messaging.transport import trace_headers
from pywatt_host.nats.connection import NatsConnection
from pywatt_host.nats.jetstream import WorkQueue
from pywatt_host.nats.subjects import Subjects
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.jsontext import dumps
from pywatt_host.protocol.payload import Payload

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

_RETRY_DELAY = 0.1  # seconds
_MAX_PENDING = 65536  # messages that the client holds until they are handled
Spawn = Callable[[Any], None]


@dataclass(slots=True)
class _NatsMessage:
    """A message that arrived over NATS. Its answer goes to its reply subject."""

    source: str
    payload: Payload
    message: Msg
    spawn: Spawn
    channel: str = "nats"
    vouched_by: str = "nats"
    attempt: int = 1
    kept: ClassVar[bool] = False

    def answer(self, module_id: str, content: Any) -> None:
        body = dumps({"content": content, "metadata": {}})
        if self.message.reply:
            if len(body) > self.message._client.max_payload:
                most = self.message._client.max_payload
                raise MessagingError("too_large", f"the answer is longer than NATS allows ({most} bytes)", self.source)
            self.spawn(self.message.respond(body))


class NatsMessages:
    """The route over NATS, which may lead to any module, and the messages that arrive over it while the application
    runs."""

    name = "nats messages"
    channel: ClassVar[str] = "nats"

    def __init__(
        self, connection: NatsConnection, subjects: Subjects, inbox: Inbox, topics: Callable[[], Sequence[str]],
        event: EventHandler, queue: WorkQueue | None,
    ) -> None:  # fmt: skip
        """`queue` keeps messages, where `channels.nats.delivery` is `at_least_once`."""
        self.keeps = queue is not None
        self._connection = connection
        self._subjects = subjects
        self._inbox = inbox
        self._topics = topics
        self._event = event
        self._queue = queue
        self._ids = Ids()
        self._taking = False
        self._spawn: Spawn = connection.spawn
        self._subscriptions: list[Subscription] = []
        self._by_topic: dict[str, Subscription] = {}
        connection.on_connected.append(self._attach)

    # Out ------------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._connection.connected

    def routes(self, target: str, channel: str | None) -> Sequence[NatsMessages]:
        """See Transport."""
        return (self,) if channel in (None, "nats") else ()

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        """See MessageRoute."""
        client, body = self._connection.client, payload.to_bytes()
        subject, headers = self._subjects.message(target), trace_headers(payload) or None
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                answer = await client.request(subject, body, timeout=max(left, 0.001), headers=headers)
                return Payload(answer.data, "Json")
            except Exception as error:  # named boundary: errors of the library, each raised as one of ours
                # Just after this client has reconnected, other modules may be about to reconnect.
                if not (
                    self._connection.just_reconnected
                    and left > _RETRY_DELAY
                    and isinstance(error, _no_responders_error())
                ):
                    self._connection.raise_for(error, target, timeout)
            await asyncio.sleep(_RETRY_DELAY)

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        """See MessageRoute."""
        if self._queue is None:
            raise MessagingError("unsupported", "messages are not kept (channels.nats.delivery)", target)
        await self._queue.keep(target, request_id, payload.to_bytes(), trace_headers(payload), timeout)

    async def available(self, timeout: float, target: str) -> None:
        _ = (
            self._connection.client
        )  # raises where there is none; a client that looks for a server buffers messages until then

    async def drained(self) -> None:
        return

    async def publish(self, topic: str, event: Payload, channel: str | None) -> bool | None:
        """See Transport."""
        if channel not in (None, "nats"):
            return None
        try:
            client = self._connection.client
        except MessagingError:
            return False
        try:
            await client.publish(self._subjects.event(topic), event.to_bytes(), headers=trace_headers(event) or None)
        except Exception as error:  # named boundary: errors of the library, each raised as one of ours
            self._connection.raise_for(error, topic, 0.0)
        return True

    # In -------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Take messages. Leaving takes no more: other processes of the module get them."""
        self._taking = True
        try:
            if self._connection.connected:
                await self._attach(self._connection.client)
            yield
        finally:
            self._taking = False
            for subscription in (*self._subscriptions, *self._by_topic.values()):
                try:
                    await subscription.drain()  # type: ignore[no-untyped-call]
                except Exception:  # named boundary: the stop path; without a connection nothing arrives any more
                    continue

    async def _attach(self, client: Client) -> None:
        if not self._taking:
            return
        self._subscriptions = [
            await client.subscribe(
                self._subjects.messages, queue=self._subjects.group, cb=self._taken, pending_msgs_limit=_MAX_PENDING
            )
        ]
        self._by_topic = {}
        for topic in self._topics():
            await self._listen(client, topic)

    def subscribe(self, topic: str) -> None:
        """Subscribe to one more topic, while messages are taken."""
        if self._taking and self._connection.connected:
            self._spawn(self._listen(self._connection.client, topic))

    async def _listen(self, client: Client, topic: str) -> None:
        if topic in self._by_topic:
            return

        async def taken(message: Msg) -> None:
            source = self._subjects.source(message.subject)
            self._event(topic, source, Payload(message.data, "Json"), "nats", "nats")

        subject = self._subjects.events(topic)
        self._by_topic[topic] = await client.subscribe(subject, cb=taken, pending_msgs_limit=_MAX_PENDING)

    async def _taken(self, message: Msg) -> None:
        source = self._subjects.source(message.subject)
        self._inbox.take(_NatsMessage(source, Payload(message.data, "Json"), message, self._spawn))


def _no_responders_error() -> type[Exception]:
    found: type[Exception] = import_module("nats.errors").NoRespondersError
    return found
