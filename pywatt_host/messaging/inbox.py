"""Incoming messages: which handler takes them, how many at a time, and what is answered."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
from asyncio import TaskGroup
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from typing import Any

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.manifest.values import Rate
from pywatt_host.messaging.context import MessageContext, Vouch, verified_claims
from pywatt_host.messaging.handlers import (
    Handlers,
    MessageInfo,
    RegisteredHandler,
    current_message,
    failure_text,
    new_error_id,
    to_jsonable,
)
from pywatt_host.messaging.incoming import Incoming, error_document, message_context
from pywatt_host.messaging.spans import HandlerSpans, error_type
from pywatt_host.net.limits import Limits, LocalLimits
from pywatt_host.observability.context import current_request
from pywatt_host.observability.spans import NO_TRACER, UNRECORDED, AnySpan, AnyTracer, Tracer
from pywatt_host.protocol.deadlines import Deadlines
from pywatt_host.protocol.payload import Envelope
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.messages")

_MAX_WAITING_FACTOR = 16  # messages that may wait for each one that may run
_MIN_QUEUE_LENGTH = 64  # messages that may wait for one handler, whatever its concurrency
_BUSY_QUEUE_LENGTH = 32  # messages that wait for one handler, from which on no more are fetched from a queue
_DEADLINE = "deadline"  # the argument of the cancellation of a handler whose deadline has passed
CODES = frozenset(
    {"no_handler", "invalid_message", "handler_failed", "timeout", "unknown_target", "too_large", "unauthorized"}
)


class Inbox:
    """Runs handlers concurrently, at most `most` at a time. A handler that fails is an error that is answered. `rate`
    limits the messages of one source."""

    name = "inbox"

    def __init__(
        self, module_id: str, most: int, rate: Rate | None = None, vouch: Vouch | None = None,
        mask: Callable[[str], str] = lambda text: text, limits: Limits | None = None, tracer: AnyTracer = NO_TRACER,
    ) -> None:  # fmt: skip
        """`vouch` verifies the credentials that come with messages; without it they are not looked at. `mask` removes
        secrets from the texts of errors that are answered. `limits` makes the limit on the rate; by default it holds
        for this process."""
        self.module_id = module_id
        self.handlers = Handlers(vouch, tracer, module_id)
        self.counts: Counter[tuple[str, str]] = Counter()  # direction and result
        self._spans = HandlerSpans(tracer, module_id) if isinstance(tracer, Tracer) else None
        self._mask = mask
        self._most = most
        self._rate = rate
        limits = limits or LocalLimits()
        self._limiter = limits.rate_limiter("channels.limits.rate", rate) if rate is not None else None
        self._deadlines: Deadlines[asyncio.Task[None]] = Deadlines(lambda task: task.cancel(_DEADLINE))
        self._waiting: deque[Incoming] = deque()
        self._queues: dict[RegisteredHandler, deque[Incoming]] = {}  # messages that wait for one handler
        self._running: dict[asyncio.Task[None], RegisteredHandler] = {}
        self._draining = False

    def take(self, incoming: Incoming) -> None:
        """Handle a message now, keep it until there is room, or refuse it. In each case it is answered once."""
        if self._draining:
            self._refuse(incoming, "handler_failed", "the module is stopping")
        elif not incoming.kept and not self.admits(incoming.source):
            text = f"more than {self._rate} messages from {cut(incoming.source, 60)} (channels.limits.rate)"
            self._refuse(incoming, "handler_failed", text)
        elif len(self._running) < self._most:
            self._start(incoming)
        elif len(self._waiting) < self._most * _MAX_WAITING_FACTOR:
            self._waiting.append(incoming)
        else:
            self._refuse(
                incoming, "handler_failed", "the module has too many messages waiting (channels.limits.messages)"
            )

    def admits(self, source: str) -> bool:
        """Count one more message from a source; whether that is within its rate."""
        return self._limiter is None or not self._limiter.wait_for(source)

    @property
    def room(self) -> int:
        """How many more messages can be taken without having to wait; 0 where many wait for one handler."""
        queued = [len(waiting) for waiting in self._queues.values()]
        if self._draining or max(queued, default=0) >= _BUSY_QUEUE_LENGTH:
            return 0
        return max(0, self._most - len(self._running) - len(self._waiting) - sum(queued))

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
        handler = self.handlers.get(type)
        if handler is None:
            self._refuse(incoming, "no_handler", f"{self.module_id} has no handler for {cut(type, 60)}")
            return
        if handler.concurrency is not None and handler.running >= handler.concurrency:
            self._queue_up(incoming, handler)
            return
        deadline = envelope.deadline
        left = math.inf if deadline is None else deadline - time.time()
        if left <= 0:
            self._refuse(incoming, "timeout", "the deadline had passed before it was handled")
            return
        properties = envelope.properties
        context = copy_context()
        context.run(
            current_message.set,
            MessageInfo(incoming.source, incoming.channel, incoming.vouched_by, deadline, incoming.attempt),
        )
        authorization = properties.get("authorization") if self.handlers.vouch is not None else None
        request: MessageContext | None = None
        if "request_id" in properties or "traceparent" in properties or authorization is not None:
            request = message_context(properties)
            context.run(current_request.set, request)
        span: AnySpan = UNRECORDED
        if self._spans is not None:
            span = context.run(self._begin_span, self._spans, incoming, type, request)
        loop = asyncio.get_running_loop()
        handler.running += 1
        task = start_eagerly(loop, self._handle(incoming, handler, content, authorization, span), context)
        if task.done():
            handler.running -= 1
            return
        self._running[task] = handler
        task.add_done_callback(self._done)
        if left < math.inf:
            self._deadlines.add(task, left, loop)

    @staticmethod
    def _begin_span(spans: HandlerSpans, incoming: Incoming, type: str, request: MessageContext | None) -> AnySpan:
        """Begin the span of a handler in its context, below the span of the message's sender."""
        parent = request.trace if request is not None else None
        span = spans.begin(type, incoming.channel, incoming.source, incoming.attempt, parent)
        place = span.place
        if request is not None and place is not None:
            request.trace, request.span_id = parent or place, place.parent_id
        return span

    def _queue_up(self, incoming: Incoming, handler: RegisteredHandler) -> None:
        queue = self._queues.setdefault(handler, deque())
        assert handler.concurrency is not None
        if len(queue) < max(handler.concurrency * _MAX_WAITING_FACTOR, _MIN_QUEUE_LENGTH):
            queue.append(incoming)
        else:
            self._refuse(incoming, "handler_failed", "the handler has too many messages waiting (its concurrency)")

    def _done(self, task: asyncio.Task[None]) -> None:
        handler = self._running.pop(task)
        handler.running -= 1
        self._deadlines.remove(task)
        queue = self._queues.get(handler)
        while (
            queue
            and handler.concurrency is not None
            and handler.running < handler.concurrency
            and len(self._running) < self._most
        ):
            self._start(queue.popleft())
        while self._waiting and len(self._running) < self._most:
            self._start(self._waiting.popleft())

    async def _handle(
        self, incoming: Incoming, handler: RegisteredHandler, content: Any, authorization: Any, span: AnySpan
    ) -> None:
        try:
            if authorization is not None or handler.auth:
                claims = await verified_claims(self.handlers.vouch, authorization, handler.auth, incoming.source)
                current = current_request.get()
                assert isinstance(current, MessageContext)
                current.claims = claims
            reply = await handler(content)
            incoming.answer(self.module_id, to_jsonable(reply))
            self.counts["in", "ok"] += 1
        except asyncio.CancelledError as error:
            span.fail("timeout" if error.args == (_DEADLINE,) else "CancelledError")
            if error.args == (_DEADLINE,):
                self._refuse(incoming, "timeout", "the deadline passed while it was handled")
                return
            self._refuse(incoming, "handler_failed", "the module is stopping")
            raise
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            span.fail(error_type(error))
            if isinstance(error, MessagingError) and error.target in ("", self.module_id):  # meant for the sender
                self._refuse(incoming, error.code if error.code in CODES else "handler_failed", error.message)
                return
            error_id, message_type = new_error_id(), cut(str(content.get("type")), 60)
            logger.exception(
                "the handler for %s raised (error %s)", message_type, error_id, extra={"error_id": error_id}
            )
            self._refuse(incoming, "handler_failed", failure_text(error_id))
        finally:
            if span is not UNRECORDED:
                span.end(leave=False)

    def _refuse(self, incoming: Incoming, code: str, text: str) -> None:
        self.counts["in", code] += 1
        try:
            incoming.answer(self.module_id, error_document(code, self._mask(text)))
        except HostError as error:
            logger.debug("%s got no answer: %s", cut(incoming.source, 60), error)

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving refuses the messages that wait, and lets the handlers that run finish."""
        try:
            yield
            self._draining = True
            for waiting in (self._waiting, *self._queues.values()):
                while waiting:
                    self._refuse(waiting.popleft(), "handler_failed", "the module is stopping")
            if self._running:
                await asyncio.wait(self._running)
        finally:
            self._draining = True
            for task in tuple(self._running):
                task.cancel()


def start_eagerly(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], context: Context | None
) -> asyncio.Task[None]:
    """A task for `work` that starts at once where Python supports that (from 3.12 on). It is already done where the
    handler never waits."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    return loop.create_task(work, context=context)
