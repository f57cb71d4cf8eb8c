"""The topics that this module has subscribed to: the handlers of each, with a bounded queue for each handler."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import Handler, MessageInfo, RegisteredHandler, current_message
from pywatt_host.messaging.spans import error_type, subscriber_span
from pywatt_host.observability.context import RequestContext, TraceContext, current_request
from pywatt_host.observability.spans import NO_TRACER, UNRECORDED, AnySpan, AnyTracer, Tracer

logger = logging.getLogger("pywatt.messages")

MAX_TOPIC_LENGTH = 200  # characters
MAX_WAITING = 1024  # events that wait for one handler
_MAX_SEEN = 4096  # ids of events that are remembered, so that one which arrives over two channels is handled once
_WARN_INTERVAL = 60.0  # seconds


def check_topic(topic: str) -> str:
    """The topic itself, which consists of words of printable characters with dots between them. Raises ValueError where
    it does not."""
    whole = isinstance(topic, str) and 0 < len(topic) <= MAX_TOPIC_LENGTH and topic.isprintable()
    if not whole or any(not part or part in ("*", ">") for part in topic.split(".")) or " " in topic:
        shown = topic[:60] if isinstance(topic, str) else topic
        raise ValueError(f"{shown!r} is not a topic: write words with dots between them, such as orders.created")
    return topic


class _Event(NamedTuple):
    """An event that waits for a handler. `trace` is where its publisher's span is, where the handler has one too."""

    content: Any
    info: MessageInfo
    id: str | None
    context: RequestContext | None
    trace: TraceContext | None


@dataclass(slots=True, eq=False)
class _Subscription:
    """One handler of a topic. At most `concurrency` calls run at a time, in the order in which events arrive."""

    topic: str
    handler: RegisteredHandler
    concurrency: int
    waiting: deque[_Event] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    warned: float = -_WARN_INTERVAL


class Subscriptions:
    """Delivers events to handlers, each at most once. Events that arrive while a handler's queue is full are dropped,
    counted and logged."""

    name = "subscriptions"

    def __init__(self, counts: Counter[tuple[str, str]], tracer: AnyTracer = NO_TRACER) -> None:
        self.tracer = tracer if isinstance(tracer, Tracer) else None
        self._on_new_topic: list[Callable[[str], None]] = []
        self._by_topic: dict[str, list[_Subscription]] = {}
        self._counts = counts
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._draining = False

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic that has a handler."""
        return tuple(self._by_topic)

    def on_new_topic(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with each topic that gets its first handler, such as to subscribe to it on a channel."""
        self._on_new_topic.append(tell)

    def on(
        self, topic: str, handler: Handler, concurrency: int | None = None, names: Mapping[str, Any] | None = None
    ) -> None:
        """Register a handler. Raises ValueError where the topic or the concurrency is not valid."""
        registered = RegisteredHandler.of(handler, concurrency, names)
        fresh = check_topic(topic) not in self._by_topic
        self._by_topic.setdefault(topic, []).append(_Subscription(topic, registered, concurrency or 1))
        if fresh:
            for tell in self._on_new_topic:
                tell(topic)

    def deliver(
        self,
        topic: str,
        content: Any,
        info: MessageInfo,
        event_id: str | None = None,
        context: RequestContext | None = None,
        trace: TraceContext | None = None,
    ) -> None:
        """Put an event into the queues of its topic's handlers. Never waits. `event_id` lets duplicates be recognised;
        `context` is that of the request in whose course the event was published. The spans of the handlers hang below
        `trace`."""
        subscriptions = self._by_topic.get(topic)
        if subscriptions is None or self._draining or (event_id is not None and self._known(info.source, event_id)):
            return
        for subscription in subscriptions:
            if len(subscription.waiting) >= MAX_WAITING:
                self._drop(subscription)
                continue
            subscription.waiting.append(_Event(content, info, event_id, context, trace))
            if len(subscription.tasks) < subscription.concurrency:
                self._begin(subscription)

    def _known(self, source: str, event_id: str) -> bool:
        key = (source, event_id)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        return False

    def _drop(self, subscription: _Subscription) -> None:
        self._counts["event", "dropped"] += 1
        now = time.monotonic()
        if now - subscription.warned >= _WARN_INTERVAL:
            subscription.warned = now
            logger.warning(
                "events of %s are dropped: %d already wait for %s (give it more concurrency)",
                subscription.topic, MAX_WAITING, getattr(subscription.handler.handler, "__qualname__", "its handler"),
            )  # fmt: skip

    def _begin(self, subscription: _Subscription) -> None:
        task = asyncio.get_running_loop().create_task(self._work(subscription), name=f"topic {subscription.topic}")
        subscription.tasks.add(task)

    async def _work(self, subscription: _Subscription) -> None:
        """Handle the events that wait, one after the other, and end with the last one."""
        try:
            while subscription.waiting:
                event = subscription.waiting.popleft()
                content, info = event.content, event.info
                current_message.set(info)
                current_request.set(event.context)
                span = UNRECORDED if self.tracer is None else self._begin_span(self.tracer, subscription.topic, event)
                try:
                    await subscription.handler(content)
                    self._counts["event", "ok"] += 1
                except MessagingError as error:
                    span.fail(error_type(error))
                    code = error.code if error.code == "invalid_message" else "handler_failed"
                    self._counts["event", code] += 1
                    logger.warning("an event of %s from %s: %s", subscription.topic, info.source, error.message)
                except Exception as error:  # named boundary: a handler is the user's code; the next event is handled
                    span.fail(error_type(error))
                    self._counts["event", "handler_failed"] += 1
                    logger.exception("a handler for the topic %s raised", subscription.topic)
                finally:
                    if span is not UNRECORDED:
                        span.end()
        finally:
            # Here and not in a callback of the task, which runs later: an event that arrives in between would wait.
            subscription.tasks.discard(asyncio.current_task())

    @staticmethod
    def _begin_span(tracer: Tracer, topic: str, event: _Event) -> AnySpan:
        span = subscriber_span(tracer, topic, event.info.channel, event.info.source, event.id, event.trace)
        span.begin()
        return span

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving waits until the events that have arrived are handled."""
        try:
            yield
            self._draining = True
            running = self._tasks()
            if running:
                await asyncio.wait(running)
        finally:
            self._draining = True
            for task in self._tasks():
                task.cancel()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for group in self._by_topic.values() for each in group for task in each.tasks]
