"""Messages that JetStream keeps until they have been handled: they are acknowledged after the handler.

One stream holds the messages to all modules, another one the dead letters. Operators may create both beforehand with
settings of their own; existing streams are used as they are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import MAX_ERROR_LENGTH
from pywatt_host.messaging.inbox import Inbox
from pywatt_host.nats.connection import NatsConnection
from pywatt_host.nats.subjects import Subjects
from pywatt_host.protocol.payload import Payload
from pywatt_host.protocol.session import cut

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger("pywatt.messages")

_BATCH_SIZE = 32  # messages in one fetch
_FETCH_TIMEOUT = 5.0  # seconds that a fetch waits for messages
_ROOM_POLL_INTERVAL = 0.02  # seconds, while the inbox is full
_MIN_REDELIVERY_DELAY, _MAX_REDELIVERY_DELAY = 0.5, 30.0  # seconds before a message that failed is delivered again
_PUBLISH_TIMEOUT = 5.0  # seconds for one attempt to publish a message
_RETRY_DELAY = 1.0  # seconds until the streams are looked up again
_DUPLICATE_WINDOW = 120.0  # seconds for which the stream recognises a message that is published again
_DEAD_LETTER_DAYS = 30  # for which dead letters are kept
_MARK_TTL = 24 * 3600.0  # seconds for which the mark of a message that is handled in isolation is kept
_PERMANENT = frozenset({"no_handler", "invalid_message", "too_large"})  # failures that another delivery repeats


@dataclass(slots=True, eq=False)
class _QueuedMessage:
    """A message from the queue. Its answer acknowledges it."""

    source: str
    payload: Payload
    message: Msg
    attempt: int
    queue: WorkQueue
    channel: str = "nats"
    vouched_by: str = "nats"
    settled: asyncio.Event | None = None  # set once it has been handled, where it is handled in isolation
    kept: ClassVar[bool] = True

    def answer(self, module_id: str, content: Any) -> None:
        self.queue.answered(self, content)


class WorkQueue:
    """Publishes messages that are kept, and fetches those to this module: at a time, as many as the inbox has room
    for."""

    name = "nats queue"

    def __init__(self, connection: NatsConnection, subjects: Subjects, inbox: Inbox) -> None:
        self.dead = 0  # dead letters, written by this process
        self.retried = 0
        self._connection = connection
        self._settings = connection.settings
        self._subjects = subjects
        self._inbox = inbox
        self._in_progress: set[_QueuedMessage] = set()
        self._acks: set[asyncio.Task[None]] = set()
        self._poison_candidates: deque[_QueuedMessage] = deque()
        self._isolating: asyncio.Task[None] | None = None
        self._streams_client: Any = None  # the client with which the streams were last seen
        self._leaving = False
        connection.on_reconnected.append(self._reconnected)

    async def _reconnected(self) -> None:
        self._streams_client = None  # a server that was restarted may have lost them

    # Sending --------------------------------------------------------------------------------------------------------

    async def keep(self, target: str, request_id: str, body: bytes, headers: Mapping[str, str], timeout: float) -> None:
        """Publish a message, and return once a stream has it. It is published again where no acknowledgement arrives:
        the stream recognises it by its id. Raises MessagingError."""
        errors = import_module("nats.errors")
        deadline = time.monotonic() + timeout
        last: Exception | None = None
        while True:
            left = min(_PUBLISH_TIMEOUT, deadline - time.monotonic())
            if left <= 0:
                why = f": {str(last).removeprefix('nats: ')[:200]}" if last is not None and str(last) else ""
                raise MessagingError(
                    "timeout", f"NATS did not acknowledge it within {timeout:g}s{why}", target
                ) from last
            client = self._connection.client
            try:
                await self._streams(left)
                await client.jetstream(timeout=left).publish(
                    self._subjects.work(target),
                    body,
                    timeout=left,
                    headers={**headers, "Nats-Msg-Id": request_id},
                )
                return
            except (errors.Error, OSError, TimeoutError) as error:
                if _is_final(error):
                    self._connection.raise_for(error, target, timeout)
                last, self._streams_client = error, None
            await asyncio.sleep(min(0.1, max(0.0, deadline - time.monotonic())))

    async def _streams(self, timeout: float) -> None:
        """Create the streams that do not exist. Raises the errors of the library."""
        client = self._connection.client
        if self._streams_client is client:
            return
        api, errors = import_module("nats.js.api"), import_module("nats.js.errors")
        manager = client.jsm(timeout=timeout)
        wanted = (
            api.StreamConfig(
                name=self._subjects.work_stream, subjects=[self._subjects.all_work],
                retention=api.RetentionPolicy.WORK_QUEUE, storage=api.StorageType.FILE,
                duplicate_window=_DUPLICATE_WINDOW,
                description="Messages of modules that wait for their handlers",
            ),
            api.StreamConfig(
                name=self._subjects.dead_stream, subjects=[self._subjects.all_dead], storage=api.StorageType.FILE,
                max_age=_DEAD_LETTER_DAYS * 24 * 3600, description="Messages of modules that nobody could handle",
            ),
        )  # fmt: skip
        for config in wanted:
            try:
                await manager.stream_info(config.name)
            except errors.NotFoundError:
                try:
                    await manager.add_stream(config)
                except errors.BadRequestError:  # another module has created it meanwhile
                    await manager.stream_info(config.name)
        self._streams_client = client

    # Taking ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving fetches no more. Messages that are being handled are acknowledged afterwards; other processes get the
        rest."""
        taking = asyncio.get_running_loop().create_task(self._fetch_messages(), name="nats queue")
        try:
            yield
        finally:
            self._leaving = True
            taking.cancel()
            if self._isolating is not None:
                self._isolating.cancel()
            while self._poison_candidates:
                self._acknowledge(self._poison_candidates.popleft().message.nak())
            await asyncio.gather(taking, return_exceptions=True)

    @asynccontextmanager
    async def keeping_in_progress(self) -> AsyncIterator[None]:
        """Surrounds all handling: no other process gets a message that is being handled here, and leaving waits until
        the acknowledgements are sent."""
        reporting = asyncio.get_running_loop().create_task(self._report_progress(), name="nats queue, in progress")
        try:
            yield
        finally:
            reporting.cancel()
            if self._acks:
                await asyncio.wait(self._acks)

    async def _fetch_messages(self) -> None:
        warned = False
        while True:
            try:
                await self._streams(5.0)
                subscription = await self._subscribed()
                warned = False
                while True:
                    await self._fetch(subscription)
            except MessagingError as error:
                logger.debug("nats queue: %s", error)
            except Exception as error:  # named boundary: errors of the library; it is tried again until it works
                if not warned and self._connection.connected:
                    warned = True
                    text = f"{type(error).__name__}: {str(error)[:200]}"
                    logger.warning("messages cannot be fetched from the NATS queue: %s; trying again", text)
            self._streams_client = None
            await asyncio.sleep(_RETRY_DELAY)

    async def _subscribed(self) -> Any:
        api = import_module("nats.js.api")
        config = api.ConsumerConfig(
            durable_name=self._subjects.group,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._settings.ack_wait,
            max_deliver=-1,  # counted here, so that a message that fails becomes a dead letter and is not dropped
            max_ack_pending=10_000,
            filter_subject=self._subjects.works,
        )
        return await self._connection.client.jetstream().pull_subscribe(
            self._subjects.works, durable=self._subjects.group, stream=self._subjects.work_stream, config=config
        )

    async def _fetch(self, subscription: Any) -> None:
        room = self._inbox.room
        while not room:
            await asyncio.sleep(_ROOM_POLL_INTERVAL)
            room = self._inbox.room
        try:
            messages = await subscription.fetch(min(room, _BATCH_SIZE), timeout=_FETCH_TIMEOUT)
        except TimeoutError:
            return
        for message in messages:
            source = self._subjects.source(message.subject)
            kept = _QueuedMessage(source, Payload(message.data, "Json"), message, message.metadata.num_delivered, self)
            self._in_progress.add(kept)
            if kept.attempt > self._settings.max_deliver:
                self._isolate(kept)
            else:
                self._inbox.take(kept)

    # One of these is a poison message, which has ended its process each time it was handled; the others were handled
    # beside it. They are handled one after the other. Each is marked before its handler starts, so that the next
    # process knows which message it was.

    def _isolate(self, kept: _QueuedMessage) -> None:
        self._poison_candidates.append(kept)
        if self._isolating is None or self._isolating.done():
            self._isolating = asyncio.get_running_loop().create_task(
                self._handle_isolated(), name="nats queue, isolated messages"
            )

    async def _handle_isolated(self) -> None:
        errors = import_module("nats.js.errors")
        while self._poison_candidates:
            kept = self._poison_candidates.popleft()
            kept.settled = asyncio.Event()
            try:
                marks, key = await self._marks(), str(_sequence(kept))
                await marks.create(key, b"begun")
            except errors.KeyWrongLastSequenceError:
                text = "each process that handled it ended before the handler was done"
                self.answered(kept, {"type": "error", "code": "handler_failed", "message": text})
                continue
            except Exception as error:  # named boundary: errors of the library; the message is delivered again
                logger.debug("nats queue: %s", error)
                self._in_progress.discard(kept)
                self._acknowledge(kept.message.nak(delay=_MIN_REDELIVERY_DELAY))
                continue
            self._inbox.take(kept)
            await kept.settled.wait()

    async def _marks(self) -> Any:
        """The bucket with the marks of messages that were handled in isolation. Raises the errors of the library."""
        api, errors = import_module("nats.js.api"), import_module("nats.js.errors")
        stream, name = self._connection.client.jetstream(timeout=_PUBLISH_TIMEOUT), self._subjects.marks
        try:
            return await stream.key_value(name)
        except errors.NotFoundError:
            return await stream.create_key_value(api.KeyValueConfig(bucket=name, ttl=_MARK_TTL, history=1))

    async def _report_progress(self) -> None:
        """Report messages that are still being handled as in progress, so that no other process gets them."""
        while True:
            await asyncio.sleep(self._settings.ack_wait / 3)
            for kept in tuple(self._in_progress):
                self._acknowledge(kept.message.in_progress())

    def answered(self, kept: _QueuedMessage, content: Any) -> None:
        """Acknowledge a message by its answer: the handler's reply, which is sent to no one, or an error."""
        self._in_progress.discard(kept)
        if kept.settled is not None:
            kept.settled.set()
        failed = content.__class__ is dict and content.get("type") == "error" and "code" in content
        if not failed:
            self._acknowledge(kept.message.ack())
        elif self._leaving:
            self._acknowledge(kept.message.nak())
        elif content["code"] in _PERMANENT or kept.attempt >= self._settings.max_deliver:
            self._acknowledge(self._dead_letter(kept, content))
        else:
            self.retried += 1
            delay = min(_MIN_REDELIVERY_DELAY * 2 ** (kept.attempt - 1), _MAX_REDELIVERY_DELAY)
            self._acknowledge(kept.message.nak(delay=delay))

    async def _dead_letter(self, kept: _QueuedMessage, content: Mapping[str, Any]) -> None:
        """Move a message to the stream of dead letters. Where that fails, the message is delivered again."""
        reason = f"{content['code']}: {content.get('message', '')}"
        headers = {"Pywatt-Reason": cut(reason, MAX_ERROR_LENGTH), "Pywatt-Attempts": str(kept.attempt)}
        try:
            await self._connection.client.jetstream().publish(
                self._subjects.dead(kept.source), kept.message.data,
                headers={**(kept.message.headers or {}), "Nats-Msg-Id": f"dead-{_sequence(kept)}", **headers},
            )  # fmt: skip
        except Exception as error:  # named boundary: errors of the library; the message stays in its stream
            logger.warning(
                "a message from %s could not be written to the dead letters: %s", cut(kept.source, 60), error
            )
            await kept.message.nak(delay=_MAX_REDELIVERY_DELAY)
            return
        await kept.message.term()
        self.dead += 1
        logger.error(
            "a message from %s is a dead letter after %d attempts (%s): see the stream %s",
            cut(kept.source, 60), kept.attempt, cut(reason, 200), self._subjects.dead_stream,
        )  # fmt: skip

    def _acknowledge(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(_logging_errors(work))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)


async def _logging_errors(work: Any) -> None:
    try:
        await work
    except Exception as error:  # named boundary: a message without acknowledgement is delivered again
        logger.debug("nats queue: %s", error)


def _sequence(kept: _QueuedMessage) -> int:
    sequence = kept.message.metadata.sequence
    return sequence.stream if sequence is not None else 0


def _is_final(error: Exception) -> bool:
    """Whether publishing again would fail the same way: the server has understood the request, and refuses it."""
    if isinstance(error, import_module("nats.errors").MaxPayloadError):
        return True
    refusals = import_module("nats.js.errors")
    gone = isinstance(error, refusals.NotFoundError)
    return isinstance(error, refusals.APIError) and not gone and (error.code or 500) < 500
