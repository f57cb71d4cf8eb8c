"""Messages that are kept until they have been handled: JetStream, acknowledged after the handler.

One stream has the messages of all modules, another those that nobody could handle. Operators may make both beforehand
with settings of their own; what is there is used as it is.
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

_BATCH = 32  # messages that are fetched at once
_FETCH = 5.0  # seconds that a fetch waits for messages
_LOOK = 0.02  # seconds between two looks for room
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0  # seconds before a message that failed is tried again
_ATTEMPT = 5.0  # seconds for one attempt to hand a message over
_RETRY = 1.0  # seconds after which the streams are asked for again
_DUPLICATES = 120.0  # seconds in which a message that is sent again is known
_DEAD_DAYS = 30
_MARKED = 24 * 3600.0  # seconds for which it is known what was begun alone
_AT_ONCE = frozenset({"no_handler", "invalid_message", "too_large"})  # what another try would not change


@dataclass(slots=True, eq=False)
class _QueuedMessage:
    """A message that is handled, and acknowledged by its answer."""

    source: str
    payload: Payload
    message: Msg
    attempt: int
    queue: WorkQueue
    channel: str = "nats"
    vouched_by: str = "nats"
    settled: asyncio.Event | None = None  # where somebody waits for its end
    kept: ClassVar[bool] = True

    def answer(self, module_id: str, content: Any) -> None:
        self.queue.answered(self, content)


class WorkQueue:
    """Sends kept messages, and takes those to this module, so many at a time as there is room in the inbox."""

    name = "nats queue"

    def __init__(self, connection: NatsConnection, subjects: Subjects, inbox: Inbox) -> None:
        self.dead = 0  # messages put aside by this process
        self.retried = 0
        self._connection = connection
        self._settings = connection.settings
        self._subjects = subjects
        self._inbox = inbox
        self._open: set[_QueuedMessage] = set()
        self._acks: set[asyncio.Task[None]] = set()
        self._suspects: deque[_QueuedMessage] = deque()
        self._trying: asyncio.Task[None] | None = None
        self._made: Any = None  # the client for which the streams are there
        self._leaving = False
        connection.again.append(self._look_again)

    async def _look_again(self) -> None:
        self._made = None  # a server that was started anew may have lost them

    # Sending --------------------------------------------------------------------------------------------------------

    async def keep(self, target: str, request_id: str, body: bytes, headers: Mapping[str, str], timeout: float) -> None:
        """Returns once a stream has it. Sent again where no acknowledgement comes: the stream knows it by its id.
        Raises MessagingError."""
        errors = import_module("nats.errors")
        deadline = time.monotonic() + timeout
        last: Exception | None = None
        while True:
            left = min(_ATTEMPT, deadline - time.monotonic())
            if left <= 0:
                why = f": {str(last).removeprefix('nats: ')[:200]}" if last is not None and str(last) else ""
                raise MessagingError("timeout", f"NATS has not taken it within {timeout:g}s{why}", target) from last
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
                last, self._made = error, None
            await asyncio.sleep(min(0.1, max(0.0, deadline - time.monotonic())))

    async def _streams(self, timeout: float) -> None:
        """Make what is not there. Raises the library's errors."""
        client = self._connection.client
        if self._made is client:
            return
        api, errors = import_module("nats.js.api"), import_module("nats.js.errors")
        manager = client.jsm(timeout=timeout)
        wanted = (
            api.StreamConfig(
                name=self._subjects.work_stream, subjects=[self._subjects.all_work],
                retention=api.RetentionPolicy.WORK_QUEUE, storage=api.StorageType.FILE, duplicate_window=_DUPLICATES,
                description="Messages of modules that wait for their handlers",
            ),
            api.StreamConfig(
                name=self._subjects.dead_stream, subjects=[self._subjects.all_dead], storage=api.StorageType.FILE,
                max_age=_DEAD_DAYS * 24 * 3600, description="Messages of modules that nobody could handle",
            ),
        )  # fmt: skip
        for config in wanted:
            try:
                await manager.stream_info(config.name)
            except errors.NotFoundError:
                try:
                    await manager.add_stream(config)
                except errors.BadRequestError:  # another module was quicker
                    await manager.stream_info(config.name)
        self._made = client

    # Taking ---------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving fetches no more; what is handled then is acknowledged after it, and the rest is somebody else's."""
        taking = asyncio.get_running_loop().create_task(self._take(), name="nats queue")
        try:
            yield
        finally:
            self._leaving = True
            taking.cancel()
            if self._trying is not None:
                self._trying.cancel()
            while self._suspects:
                self._acknowledge(self._suspects.popleft().message.nak())
            await asyncio.gather(taking, return_exceptions=True)

    @asynccontextmanager
    async def holding(self) -> AsyncIterator[None]:
        """Around all handling: nobody else gets what is handled, and leaving waits until acknowledgements are sent."""
        holding = asyncio.get_running_loop().create_task(self._hold(), name="nats queue, in progress")
        try:
            yield
        finally:
            holding.cancel()
            if self._acks:
                await asyncio.wait(self._acks)

    async def _take(self) -> None:
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
            except Exception as error:  # named boundary: the library's errors; asked again until it is there
                if not warned and self._connection.connected:
                    warned = True
                    text = f"{type(error).__name__}: {str(error)[:200]}"
                    logger.warning("kept messages cannot be fetched: %s; tried again", text)
            self._made = None
            await asyncio.sleep(_RETRY)

    async def _subscribed(self) -> Any:
        api = import_module("nats.js.api")
        config = api.ConsumerConfig(
            durable_name=self._subjects.group,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=self._settings.ack_wait,
            max_deliver=-1,  # counted here, so that what fails is put aside and not dropped
            max_ack_pending=10_000,
            filter_subject=self._subjects.works,
        )
        return await self._connection.client.jetstream().pull_subscribe(
            self._subjects.works, durable=self._subjects.group, stream=self._subjects.work_stream, config=config
        )

    async def _fetch(self, subscription: Any) -> None:
        room = self._inbox.room
        while not room:
            await asyncio.sleep(_LOOK)
            room = self._inbox.room
        try:
            messages = await subscription.fetch(min(room, _BATCH), timeout=_FETCH)
        except TimeoutError:
            return
        for message in messages:
            source = self._subjects.source(message.subject)
            kept = _QueuedMessage(source, Payload(message.data, "Json"), message, message.metadata.num_delivered, self)
            self._open.add(kept)
            if kept.attempt > self._settings.max_deliver:
                self._suspect(kept)
            else:
                self._inbox.take(kept)

    # One of these has ended its process each time it was handled, and the others were beside it: they are handled one
    # after the other, each marked before it is begun, so that the next process knows which one it was.

    def _suspect(self, kept: _QueuedMessage) -> None:
        self._suspects.append(kept)
        if self._trying is None or self._trying.done():
            self._trying = asyncio.get_running_loop().create_task(self._try_suspects(), name="nats queue, suspects")

    async def _try_suspects(self) -> None:
        errors = import_module("nats.js.errors")
        while self._suspects:
            kept = self._suspects.popleft()
            kept.settled = asyncio.Event()
            try:
                marks, key = await self._marks(), str(_sequence(kept))
                await marks.create(key, b"begun")
            except errors.KeyWrongLastSequenceError:
                text = "each process that handled it has ended before it was done"
                self.answered(kept, {"type": "error", "code": "handler_failed", "message": text})
                continue
            except Exception as error:  # named boundary: the library's errors; it comes again
                logger.debug("nats queue: %s", error)
                self._open.discard(kept)
                self._acknowledge(kept.message.nak(delay=_FIRST_DELAY))
                continue
            self._inbox.take(kept)
            await kept.settled.wait()

    async def _marks(self) -> Any:
        """The bucket of what was begun alone. Raises the library's errors."""
        api, errors = import_module("nats.js.api"), import_module("nats.js.errors")
        stream, name = self._connection.client.jetstream(timeout=_ATTEMPT), self._subjects.marks
        try:
            return await stream.key_value(name)
        except errors.NotFoundError:
            return await stream.create_key_value(api.KeyValueConfig(bucket=name, ttl=_MARKED, history=1))

    async def _hold(self) -> None:
        """Say of what is still handled that it is, so that nobody else gets it."""
        while True:
            await asyncio.sleep(self._settings.ack_wait / 3)
            for kept in tuple(self._open):
                self._acknowledge(kept.message.in_progress())

    def answered(self, kept: _QueuedMessage, content: Any) -> None:
        """The handler's reply, which is nobody's, or why there is none."""
        self._open.discard(kept)
        if kept.settled is not None:
            kept.settled.set()
        failed = content.__class__ is dict and content.get("type") == "error" and "code" in content
        if not failed:
            self._acknowledge(kept.message.ack())
        elif self._leaving:
            self._acknowledge(kept.message.nak())
        elif content["code"] in _AT_ONCE or kept.attempt >= self._settings.max_deliver:
            self._acknowledge(self._put_aside(kept, content))
        else:
            self.retried += 1
            delay = min(_FIRST_DELAY * 2 ** (kept.attempt - 1), _LAST_DELAY)
            self._acknowledge(kept.message.nak(delay=delay))

    async def _put_aside(self, kept: _QueuedMessage, content: Mapping[str, Any]) -> None:
        """Into the stream of dead letters; where that cannot be, it is tried again."""
        reason = f"{content['code']}: {content.get('message', '')}"
        headers = {"Pywatt-Reason": cut(reason, MAX_ERROR_LENGTH), "Pywatt-Attempts": str(kept.attempt)}
        try:
            await self._connection.client.jetstream().publish(
                self._subjects.dead(kept.source), kept.message.data,
                headers={**(kept.message.headers or {}), "Nats-Msg-Id": f"dead-{_sequence(kept)}", **headers},
            )  # fmt: skip
        except Exception as error:  # named boundary: the library's errors; the message stays where it is
            logger.warning("a message of %s could not be put aside: %s", cut(kept.source, 60), error)
            await kept.message.nak(delay=_LAST_DELAY)
            return
        await kept.message.term()
        self.dead += 1
        logger.error(
            "a message of %s is put aside after %d tries (%s): see the stream %s",
            cut(kept.source, 60), kept.attempt, cut(reason, 200), self._subjects.dead_stream,
        )  # fmt: skip

    def _acknowledge(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(work))
        self._acks.add(task)
        task.add_done_callback(self._acks.discard)


async def _quietly(work: Any) -> None:
    try:
        await work
    except Exception as error:  # named boundary: what could not be acknowledged comes again
        logger.debug("nats queue: %s", error)


def _sequence(kept: _QueuedMessage) -> int:
    sequence = kept.message.metadata.sequence
    return sequence.stream if sequence is not None else 0


def _is_final(error: Exception) -> bool:
    """Whether the same would be said again: the server has understood, and refuses."""
    if isinstance(error, import_module("nats.errors").MaxPayloadError):
        return True
    refusals = import_module("nats.js.errors")
    gone = isinstance(error, refusals.NotFoundError)
    return isinstance(error, refusals.APIError) and not gone and (error.code or 500) < 500
