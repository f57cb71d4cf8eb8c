"""What this module subscribed to: each topic's handlers, with a bounded queue each."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pywatt_host.exceptions import MessagingError
from pywatt_host.messaging.handlers import Delivery, Found, Handler, current_delivery
from pywatt_host.observability.context import RequestContext, current_request

logger = logging.getLogger("pywatt.messages")

LONGEST_TOPIC = 200  # characters
MOST_WAITING = 1024  # events that wait for one handler
_REMEMBERED = 4096  # ids of events, so that one which comes over two channels is handled once
_WARN_EVERY = 60.0  # seconds


def check_topic(topic: str) -> str:
    """Raises ValueError where it is no topic: words of printable characters, separated by dots."""
    whole = isinstance(topic, str) and 0 < len(topic) <= LONGEST_TOPIC and topic.isprintable()
    if not whole or any(not part or part in ("*", ">") for part in topic.split(".")) or " " in topic:
        shown = topic[:60] if isinstance(topic, str) else topic
        raise ValueError(f"{shown!r} is no topic: write words with dots between them, such as orders.created")
    return topic


@dataclass(slots=True, eq=False)
class _Subscription:
    """One handler of a topic; `most` of it run at a time, in the order in which events came."""

    topic: str
    found: Found
    most: int
    waiting: deque[tuple[Any, Delivery, RequestContext | None]] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    warned: float = -_WARN_EVERY


class Subscriptions:
    """At most once: what comes while a handler's queue is full is dropped, counted and said. `added` are called with
    each topic that gets its first handler, such as to tell those who publish."""

    name = "subscriptions"

    def __init__(self, counts: Counter[tuple[str, str]]) -> None:
        self.added: list[Callable[[str], None]] = []
        self._by_topic: dict[str, list[_Subscription]] = {}
        self._counts = counts
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._draining = False

    @property
    def all(self) -> tuple[str, ...]:
        """Every topic that has a handler."""
        return tuple(self._by_topic)

    def on(
        self, topic: str, handler: Handler, concurrency: int | None = None, names: Mapping[str, Any] | None = None
    ) -> None:
        """Raises ValueError where the topic or the concurrency is none."""
        found = Found.of(handler, concurrency, names)
        fresh = check_topic(topic) not in self._by_topic
        self._by_topic.setdefault(topic, []).append(_Subscription(topic, found, concurrency or 1))
        if fresh:
            for tell in self.added:
                tell(topic)

    def deliver(
        self,
        topic: str,
        content: Any,
        delivery: Delivery,
        event_id: str | None = None,
        context: RequestContext | None = None,
    ) -> None:
        """Hand an event to the handlers of its topic. Never waits."""
        subscriptions = self._by_topic.get(topic)
        if subscriptions is None or self._draining or (event_id is not None and self._known(delivery.source, event_id)):
            return
        for subscription in subscriptions:
            if len(subscription.waiting) >= MOST_WAITING:
                self._drop(subscription)
                continue
            subscription.waiting.append((content, delivery, context))
            if len(subscription.tasks) < subscription.most:
                self._begin(subscription)

    def _known(self, source: str, event_id: str) -> bool:
        key = (source, event_id)
        if key in self._seen:
            return True
        self._seen[key] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def _drop(self, subscription: _Subscription) -> None:
        self._counts["event", "dropped"] += 1
        now = time.monotonic()
        if now - subscription.warned >= _WARN_EVERY:
            subscription.warned = now
            logger.warning(
                "events of %s are dropped: %d wait for %s already (give it more concurrency)",
                subscription.topic, MOST_WAITING, getattr(subscription.found.handler, "__qualname__", "its handler"),
            )  # fmt: skip

    def _begin(self, subscription: _Subscription) -> None:
        task = asyncio.get_running_loop().create_task(self._work(subscription), name=f"topic {subscription.topic}")
        subscription.tasks.add(task)
        task.add_done_callback(subscription.tasks.discard)

    async def _work(self, subscription: _Subscription) -> None:
        """Handle what waits, one after the other, and end with the last of it."""
        while subscription.waiting:
            content, delivery, context = subscription.waiting.popleft()
            current_delivery.set(delivery)
            current_request.set(context)
            try:
                await subscription.found(content)
                self._counts["event", "ok"] += 1
            except MessagingError as error:
                code = error.code if error.code == "invalid_message" else "handler_failed"
                self._counts["event", code] += 1
                logger.warning("an event of %s from %s: %s", subscription.topic, delivery.source, error.message)
            except Exception:  # named boundary: a handler is the user's code; the next event is handled
                self._counts["event", "handler_failed"] += 1
                logger.exception("a handler for the topic %s raised", subscription.topic)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving lets what came before be handled."""
        try:
            yield
            self._draining = True
            left = self._tasks()
            if left:
                await asyncio.wait(left)
        finally:
            self._draining = True
            for task in self._tasks():
                task.cancel()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for group in self._by_topic.values() for each in group for task in each.tasks]
