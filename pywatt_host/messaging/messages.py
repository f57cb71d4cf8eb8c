"""Messages to other modules: the route that each one takes, other routes where that one fails, and published events."""

from __future__ import annotations

import asyncio
import logging
import time
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.messaging.handlers import MAX_ERROR_LENGTH, MessageInfo, message_type, to_jsonable
from pywatt_host.messaging.inbox import CODES, Inbox
from pywatt_host.messaging.incoming import message_context, reply_payload
from pywatt_host.messaging.subscriptions import Subscriptions, check_topic
from pywatt_host.messaging.transport import CHANNELS, MessageRoute, Transport
from pywatt_host.observability.context import active_trace, current_request, outgoing_trace
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.payload import Envelope, Payload, is_envelope
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.messages")

_ANSWER_GRACE = 1.0  # seconds to wait, at the end, for the answers to messages that were sent
_TRY_NEXT = frozenset({"unavailable", "unknown_target"})  # codes after which another route may be tried
_COUNTED = CODES | {"unavailable", "lost", "refused", "unsupported"}
_MAX_SENDING = 4096  # messages of `send` that have no answer yet
SEND_TIMEOUT = 30.0  # seconds for the answer to a message of `send`; a missing answer is logged


class CallPolicy(Protocol):
    """Time limit, retries and circuit breaker for calls to one target."""

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[Any]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> Any: ...


class Messages:
    """The messages of one module to others. Incoming messages are in the inbox."""

    name = "messages"

    def __init__(
        self,
        inbox: Inbox,
        topics: Subscriptions,
        transports: Sequence[Transport],
        policy: Callable[[str], CallPolicy | None] = lambda target: None,
    ) -> None:
        self.module_id = inbox.module_id
        self.inbox = inbox
        self.topics = topics
        self.handlers = inbox.handlers
        self.counts = inbox.counts
        self._transports = tuple(transports)
        self._policy = policy
        self._loopback = _LoopbackRoute(inbox)
        self._ids = Ids()
        self._sending: set[asyncio.Task[None]] = set()

    # Asking and sending ---------------------------------------------------------------------------------------------

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any:
        """Send a message and return the reply of the target's handler, within `timeout` seconds. The other side
        verifies `authorization`. `channel` restricts the routes to that channel. Raises MessagingError with the code of
        the failure."""
        message = to_jsonable(message)
        message_type(message)
        try:
            policy = self._policy(target)
            if policy is None:
                content = await self._asked(target, message, timeout, authorization, channel)
            else:
                content = await policy.run(
                    lambda left: self._asked(
                        target, message, timeout if left is None else min(left, timeout), authorization, channel
                    ),
                    retryable=_never_sent, failure=_is_failure, timeout=timeout,
                )  # fmt: skip
        except MessagingError as error:
            # The other side chooses the code; it must not be able to add series to a metric.
            self.counts["out", error.code if error.code in _COUNTED else "other"] += 1
            raise
        self.counts["out", "ok"] += 1
        return content

    async def _asked(
        self, target: str, message: Any, timeout: float, authorization: str | None, channel: str | None
    ) -> Any:
        payload = _envelope(message, authorization, time.time() + timeout)
        try:
            routes = self._routes(target, channel)
            if len(routes) == 1:
                answer = await routes[0].request(target, self._ids(), payload, timeout)
            else:
                answer = await self._try_routes(routes, target, payload, timeout, channel)
            return content_of(answer, target)
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), target) from error

    async def _try_routes(
        self, routes: Sequence[MessageRoute], target: str, payload: Payload, timeout: float, channel: str | None
    ) -> Payload:
        """Send a message over the first route that leads to the target. The next route is tried only where nothing was
        sent over the one before."""
        request_id, deadline, failures = self._ids(), time.monotonic() + timeout, []
        for route in routes:
            try:
                answer = await route.request(target, request_id, payload, max(0.001, deadline - time.monotonic()))
                refusal = _not_passed_on(answer, target)
                if refusal is None:
                    return answer
                failures.append((route.channel, refusal))
            except MessagingError as error:
                error.target = error.target or target
                if error.code not in _TRY_NEXT:
                    raise
                failures.append((route.channel, error))
        if failures:
            text = "; ".join(f"{channel}: {error.message}" for channel, error in failures)
            raise MessagingError(failures[0][1].code, text[:MAX_ERROR_LENGTH], target) from failures[-1][1]
        raise self._no_route(target, channel)

    def _routes(self, target: str, channel: str | None) -> Sequence[MessageRoute]:
        """The routes to a target: those that are connected come first, then by channel."""
        if len(self._transports) == 1 and channel is None and target != self.module_id:
            return self._transports[0].routes(target, None)
        if channel is not None and channel not in CHANNELS:
            raise ValueError(f"{channel!r} is not a channel (one of {', '.join(CHANNELS)})")
        found = [route for transport in self._transports for route in transport.routes(target, channel)]
        found.sort(key=lambda route: (not route.ready, CHANNELS.index(route.channel)))
        if target == self.module_id and channel is None and not any(route.ready for route in found):
            return [self._loopback]  # nothing else could pass it to another process of this module
        return found

    def channel_to(self, target: str, channel: str | None) -> str:
        """The channel that a message to a module would take now; empty where there is none."""
        routes = self._routes(target, channel)
        return routes[0].channel if routes else ""

    def _no_route(self, target: str, channel: str | None) -> MessagingError:
        if channel is not None:
            text = f"there is no channel {channel} to it (see channels.{channel}, services.static)"
        else:
            text = (
                "there is no channel to it: run the module under an orchestrator, or see channels and services.static"
            )
        return MessagingError("unavailable", text, target)

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> None:  # fmt: skip
        """Send a message without waiting for its answer; an answer that is an error is logged. Where a route keeps
        messages, this returns once the message is kept. Raises MessagingError where no channel is connected within
        `timeout` seconds, or where the message cannot be sent at all."""
        message = to_jsonable(message)
        message_type(message)
        try:
            Payload.of(message).to_bytes()  # what cannot be written as JSON is the caller's error, not a log record
            routes = self._routes(target, channel)
            keeper = next((route for route in routes if route.keeps), None)
            if keeper is not None:
                await keeper.keep(target, self._ids(), _envelope(message, authorization, None), timeout)
                self.counts["out", "kept"] += 1
                return
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), target) from error
        if not routes:
            raise self._no_route(target, channel)
        if len(self._sending) >= _MAX_SENDING:
            raise MessagingError("unavailable", f"{_MAX_SENDING} messages already wait for their answers", target)
        if routes[0].ready:
            await routes[0].drained()
        elif len(routes) == 1:
            await routes[0].available(timeout, target)
        task = asyncio.get_running_loop().create_task(self._sent(target, message, timeout, authorization, channel))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        await asyncio.sleep(0)  # so that messages leave in the order of the calls

    async def _sent(
        self, target: str, message: Any, timeout: float, authorization: str | None, channel: str | None
    ) -> None:
        try:
            await self.request(target, message, timeout, authorization, channel)
        except HostError as error:
            logger.warning("a message to %s was not handled: %s", target, error, extra={"target": target})

    # For workers ----------------------------------------------------------------------------------------------------

    async def pass_on(self, target: str, payload: Payload, timeout: float, channel: str | None) -> Payload:
        """Send a message that a worker of this host has written, unchanged, and return the answer unchanged. Raises
        MessagingError."""
        return await self._try_routes(self._routes(target, channel), target, payload, timeout, channel)

    async def pass_event(self, topic: str, event: Payload, channel: str | None) -> None:
        """Publish an event that a worker of this host has written, on `channel`, or on all that are connected."""
        for transport in self._transports:
            await transport.publish(topic, event, channel)

    # Publishing -----------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> str:
        """Publish an event to all subscribers, over every channel; each subscriber handles it once. Returns its id.
        Raises ValueError where the topic is not valid, MessagingError where the event cannot be written as JSON or no
        channel is connected."""
        message, properties = to_jsonable(message), _trace_properties()
        event_id = self._ids()
        event = Payload.of(Envelope(message, properties, event_id).seal())
        try:
            event.to_bytes()  # as above
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), topic) from error
        info = MessageInfo(self.module_id, "process", "process")
        trace = active_trace() if self.topics.tracer is not None else None
        self.topics.deliver(check_topic(topic), message, info, event_id, current_request.get(), trace)
        taken = [await transport.publish(topic, event, channel) for transport in self._transports]
        if False in taken and True not in taken:
            self.counts["event", "unavailable"] += 1
            raise MessagingError("unavailable", "no channel is connected to publish it on", topic)
        self.counts["event", "published"] += 1
        return event_id

    def event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        """Take an event that another module has published. An event that cannot be read, or exceeds the rate of its
        source, is counted and dropped."""
        if not self.inbox.admits(source):
            self.counts["event", "dropped"] += 1
            return
        try:
            envelope = Envelope.open(payload.document())
        except ProtocolError as error:
            self.counts["event", "invalid_message"] += 1
            logger.debug("an event of %s from %s: %s", cut(topic, 60), cut(source, 60), error)
            return
        context = message_context(envelope.properties) if envelope.properties else None
        info, trace = MessageInfo(source, channel, vouched_by), context.trace if context is not None else None
        self.topics.deliver(topic, envelope.content, info, envelope.id, context, trace)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving waits a moment for the answers to messages that were sent."""
        try:
            yield
            if self._sending:  # their answers are only logged
                await asyncio.wait(self._sending, timeout=_ANSWER_GRACE)
        finally:
            for task in self._sending:
                task.cancel()


@dataclass(slots=True)
class _OwnMessage:
    """A message from this process to itself."""

    source: str
    payload: Payload
    answered: asyncio.Future[Payload]
    channel: ClassVar[str] = "process"
    vouched_by: ClassVar[str] = "process"
    attempt: ClassVar[int] = 1
    kept: ClassVar[bool] = False

    def answer(self, module_id: str, content: Any) -> None:
        payload = reply_payload(content)
        payload.to_bytes()  # what cannot be written as JSON is the handler's error, as on any channel
        if not self.answered.done():
            self.answered.set_result(payload)


class _LoopbackRoute:
    """The route of a module to itself, where no other leads there."""

    channel: ClassVar[str] = "process"
    keeps: ClassVar[bool] = False
    ready: ClassVar[bool] = True

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        message = _OwnMessage(target, payload, asyncio.get_running_loop().create_future())
        self._inbox.take(message)
        try:
            async with asyncio.timeout(timeout):
                return await message.answered
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s", target) from None

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "messages to the same process are not kept", target)

    async def available(self, timeout: float, target: str) -> None:
        return

    async def drained(self) -> None:
        return


def _envelope(message: Any, authorization: str | None, deadline: float | None) -> Payload:
    properties: dict[str, Any] = _trace_properties()
    if deadline is not None:
        properties["deadline"] = deadline
    if authorization is not None:
        properties["authorization"] = authorization
    return Payload.of({"content": message, "metadata": {"properties": properties}})


def _trace_properties() -> dict[str, Any]:
    """Id and trace of the request in whose course the message is sent. The trace names the span of the message, where
    it has one."""
    properties: dict[str, Any] = {}
    request, trace = current_request.get(), outgoing_trace()
    if request is not None:
        properties["request_id"] = request.request_id.decode("latin-1")
    if trace is not None:
        properties["traceparent"], state = trace
        if state:
            properties["tracestate"] = state
    return properties


def content_of(answer: Payload, target: str) -> Any:
    """The reply in an answer. Raises MessagingError where it is an error, ProtocolError where it cannot be read."""
    content = answer.document()
    if is_envelope(content):
        content = Envelope.open(content).content
    if content.__class__ is dict and content.get("type") == "error" and isinstance(content.get("code"), str):
        raise MessagingError(content["code"], str(content.get("message", ""))[:MAX_ERROR_LENGTH], target)
    return content


def _not_passed_on(answer: Payload, target: str) -> MessagingError | None:
    """The error in an answer that says that the message did not reach the target: an orchestrator does not know it, or
    the supervisor of this worker has no channel to it."""
    try:
        content = answer.document()
    except ProtocolError:
        return None  # the reader of the answer reports it
    if content.__class__ is not dict or content.get("type") != "error" or content.get("code") not in _TRY_NEXT:
        return None
    return MessagingError(content["code"], str(content.get("message", ""))[:MAX_ERROR_LENGTH], target)


def _never_sent(error: Exception) -> bool:
    """Whether a message can be sent again. That is so only where it was not sent, since it may not be handled twice."""
    return isinstance(error, MessagingError) and error.code == "unavailable"


def _is_failure(error: Exception) -> bool:
    """Whether the error counts as a failure of the target."""
    return isinstance(error, MessagingError) and error.code in ("unavailable", "timeout", "lost")
