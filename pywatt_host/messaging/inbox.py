"""Messages that come in: which handler takes them, how many at a time, and what is answered."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from asyncio import TaskGroup
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.manifest.values import Rate
from pywatt_host.messaging.handlers import Delivery, Found, Handlers, current_delivery, plain
from pywatt_host.messaging.incoming import Incoming, MessageContext, error_document, message_context, sealed
from pywatt_host.net.limits import RateLimiter
from pywatt_host.observability.context import current_request
from pywatt_host.peers.connection import PeerConnection
from pywatt_host.protocol.deadlines import Deadlines
from pywatt_host.protocol.messages import RoutedMessage, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Envelope, Payload
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.messages")

_WAITING_EACH = 16  # messages that may wait for each one that may run
_LEAST_BEHIND = 64  # messages that may wait for one handler, whatever its concurrency
_MANY_BEHIND = 32
_DEADLINE = "deadline"  # why a handler's task is cancelled
CODES = frozenset({"no_handler", "invalid_message", "handler_failed", "timeout", "unknown_target", "too_large"})


@dataclass(slots=True)
class _OfConversation:
    """What came over frames or lines. `routed`: in the words of an orchestrator, which a peer uses too; `passed_on`: by
    a real one, who knows where it is from."""

    source: str
    request_id: str
    payload: Payload
    conversation: PeerConnection
    routed: bool
    passed_on: bool = False
    attempt: ClassVar[int] = 1
    kept: ClassVar[bool] = False

    @property
    def channel(self) -> str:
        return self.conversation.channel

    @property
    def vouched_by(self) -> str:
        return "orchestrator" if self.passed_on else self.conversation.vouched_by

    def answer(self, module_id: str, content: Any) -> None:
        payload = sealed(content)
        if self.routed:
            self.conversation.session.send(RouteToModule(self.source, "", self.request_id, payload))
        else:
            self.conversation.session.send(RoutedResponse(module_id, self.request_id, payload))


# The claims of an Authorization header's value. Raises MessagingError where it does not hold.
Vouch: TypeAlias = Callable[[str], Awaitable[dict[str, Any]]]


class Inbox:
    """Handlers run beside each other, `most` at a time; a crash is an answer. `rate` bounds what one source sends."""

    name = "inbox"

    def __init__(self, module_id: str, most: int, rate: Rate | None = None) -> None:
        self.module_id = module_id
        self.handlers = Handlers()
        self.counts: Counter[tuple[str, str]] = Counter()  # direction and result
        self.vouch: Vouch | None = None  # None: credentials of messages are not looked at
        self._most = most
        self._rate = rate
        self._limiter = RateLimiter(rate, time.monotonic) if rate is not None else None
        self._deadlines: Deadlines[asyncio.Task[None]] = Deadlines(lambda task: task.cancel(_DEADLINE))
        self._waiting: deque[Incoming] = deque()
        self._behind: dict[Found, deque[Incoming]] = {}  # those that wait for one handler
        self._running: dict[asyncio.Task[None], Found] = {}
        self._draining = False

    def routed(self, message: RoutedMessage, conversation: PeerConnection) -> None:
        """A message that the orchestrator passes on."""
        source, request_id = message.source_module_id, message.original_request_id
        self.take(_OfConversation(source, request_id, message.payload, conversation, True, True))

    def told(self, message: RoutedMessage, conversation: PeerConnection) -> None:
        """A message of a peer that this module is connected to: from nobody but that peer."""
        source, request_id = conversation.module_id, message.original_request_id
        self.take(_OfConversation(source, request_id, message.payload, conversation, True))

    def direct(self, message: RouteToModule, conversation: PeerConnection) -> None:
        """A message of a peer that is connected to this module."""
        self.take(_OfConversation(conversation.module_id, message.request_id, message.payload, conversation, False))

    def take(self, incoming: Incoming) -> None:
        """Handle it now, keep it until there is room, or refuse it. It is answered in each case, once."""
        if self._draining:
            self._refuse(incoming, "handler_failed", "the module is stopping")
        elif not incoming.kept and not self.admits(incoming.source):
            text = f"more than {self._rate} messages of {cut(incoming.source, 60)} (channels.limits.rate)"
            self._refuse(incoming, "handler_failed", text)
        elif len(self._running) < self._most:
            self._start(incoming)
        elif len(self._waiting) < self._most * _WAITING_EACH:
            self._waiting.append(incoming)
        else:
            self._refuse(
                incoming, "handler_failed", "the module has too many messages waiting (channels.limits.messages)"
            )

    def admits(self, source: str) -> bool:
        """Whether one more of that source is within its rate; it counts from now on."""
        return self._limiter is None or not self._limiter.wait_for(source)

    @property
    def room(self) -> int:
        """How many more may be taken before they have to wait; none where many wait for one handler."""
        behind = [len(waiting) for waiting in self._behind.values()]
        if self._draining or max(behind, default=0) >= _MANY_BEHIND:
            return 0
        return max(0, self._most - len(self._running) - len(self._waiting) - sum(behind))

    def _start(self, incoming: Incoming) -> None:
        try:
            envelope = Envelope.open(incoming.payload.document())
        except ProtocolError as error:
            self._refuse(incoming, "invalid_message", str(error))
            return
        content = envelope.content
        type = content.get("type") if content.__class__ is dict else None
        if type.__class__ is not str:
            self._refuse(incoming, "invalid_message", "a message is a JSON object with a type")
            return
        found = self.handlers.get(type)
        if found is None:
            self._refuse(incoming, "no_handler", f"{self.module_id} has no handler for {cut(type, 60)}")
            return
        if found.most is not None and found.running >= found.most:
            self._queue_up(incoming, found)
            return
        deadline = envelope.deadline
        left = math.inf if deadline is None else deadline - time.time()
        if left <= 0:
            self._refuse(incoming, "timeout", "the deadline had passed before it was handled")
            return
        properties = envelope.properties
        context = copy_context()
        context.run(
            current_delivery.set,
            Delivery(incoming.source, incoming.channel, incoming.vouched_by, deadline, incoming.attempt),
        )
        authorization = properties.get("authorization") if self.vouch is not None else None
        if "request_id" in properties or "traceparent" in properties or authorization is not None:
            context.run(current_request.set, message_context(properties))
        loop = asyncio.get_running_loop()
        found.running += 1
        task = started(loop, self._handle(incoming, found, content, authorization), context)
        if task.done():
            found.running -= 1
            return
        self._running[task] = found
        task.add_done_callback(self._done)
        if left < math.inf:
            self._deadlines.add(task, left, loop)

    def _queue_up(self, incoming: Incoming, found: Found) -> None:
        behind = self._behind.setdefault(found, deque())
        assert found.most is not None
        if len(behind) < max(found.most * _WAITING_EACH, _LEAST_BEHIND):
            behind.append(incoming)
        else:
            self._refuse(incoming, "handler_failed", "the handler has too many messages waiting (its concurrency)")

    def _done(self, task: asyncio.Task[None]) -> None:
        found = self._running.pop(task)
        found.running -= 1
        self._deadlines.remove(task)
        behind = self._behind.get(found)
        while behind and found.most is not None and found.running < found.most and len(self._running) < self._most:
            self._start(behind.popleft())
        while self._waiting and len(self._running) < self._most:
            self._start(self._waiting.popleft())

    async def _handle(self, incoming: Incoming, found: Found, content: Any, authorization: Any) -> None:
        try:
            if authorization is not None and self.vouch is not None:
                current = current_request.get()
                assert isinstance(current, MessageContext)
                current.claims = await self.vouch(str(authorization))
            reply = await found(content)
            incoming.answer(self.module_id, plain(reply))
            self.counts["in", "ok"] += 1
        except asyncio.CancelledError as error:
            if error.args == (_DEADLINE,):
                self._refuse(incoming, "timeout", "the deadline passed while it was handled")
                return
            self._refuse(incoming, "handler_failed", "the module is stopping")
            raise
        except (MessagingError, ProtocolError) as error:
            code = error.code if error.code in CODES else "handler_failed"
            self._refuse(incoming, code, error.message)
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            logger.exception("the handler for %s raised", cut(str(content.get("type")), 60))
            self._refuse(incoming, "handler_failed", str(error) or type(error).__name__)

    def _refuse(self, incoming: Incoming, code: str, text: str) -> None:
        self.counts["in", code] += 1
        try:
            incoming.answer(self.module_id, error_document(code, text))
        except HostError as error:
            logger.debug("%s got no answer: %s", cut(incoming.source, 60), error)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving refuses what waits, and lets the handlers that run come to their end."""
        try:
            yield
            self._draining = True
            for waiting in (self._waiting, *self._behind.values()):
                while waiting:
                    self._refuse(waiting.popleft(), "handler_failed", "the module is stopping")
            if self._running:
                await asyncio.wait(self._running)
        finally:
            self._draining = True
            for task in tuple(self._running):
                task.cancel()


def started(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], context: Context | None
) -> asyncio.Task[None]:
    """A task that has begun already, where Python can do that (3.12): a handler that waits for nothing is then done."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    return loop.create_task(work, context=context)
