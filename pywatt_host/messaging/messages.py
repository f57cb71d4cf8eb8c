"""Messages to other modules: which way they go, another one where that leads nowhere, and what is published."""

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
from pywatt_host.messaging.handlers import LONGEST_TEXT, Delivery, message_type, plain
from pywatt_host.messaging.inbox import CODES, Inbox
from pywatt_host.messaging.incoming import message_context, sealed
from pywatt_host.messaging.subscriptions import Subscriptions, check_topic
from pywatt_host.messaging.transport import CHANNELS, MessageRoute, Transport
from pywatt_host.observability.context import current_request
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.payload import Envelope, Payload, is_envelope
from pywatt_host.protocol.session import cut

logger = logging.getLogger("pywatt.messages")

_LAST_ANSWERS = 1.0  # seconds that the answers to what was sent are waited for at the end
_NOT_THERE = frozenset({"unavailable", "unknown_target"})  # codes after which another way may be tried
_COUNTED = CODES | {"unavailable", "lost", "refused", "unsupported"}
_MOST_SENDING = 4096  # messages on their way that nobody waits for
SEND_TIMEOUT = 30.0  # seconds in which a message that nobody waits for is answered, before that is logged


class Policy(Protocol):
    """Time limit, retries and circuit breaker for one target."""

    async def run(
        self,
        attempt: Callable[[float | None], Awaitable[Any]],
        retryable: Callable[[Exception], bool],
        failure: Callable[[Exception], bool],
        timeout: float | None = None,
    ) -> Any: ...


class Messages:
    """The messages of one module to others. What comes in is the inbox's."""

    name = "messages"

    def __init__(
        self,
        inbox: Inbox,
        topics: Subscriptions,
        carriers: Sequence[Transport],
        policy: Callable[[str], Policy | None] = lambda target: None,
    ) -> None:
        self.module_id = inbox.module_id
        self.inbox = inbox
        self.topics = topics
        self.handlers = inbox.handlers
        self.counts = inbox.counts
        self._carriers = tuple(carriers)
        self._policy = policy
        self._itself = _Itself(inbox)
        self._ids = Ids()
        self._sending: set[asyncio.Task[None]] = set()

    # Asking and sending ---------------------------------------------------------------------------------------------

    async def request(
        self, target: str, message: Any, timeout: float, authorization: str | None = None, channel: str | None = None
    ) -> Any:
        """The reply of the target's handler. `authorization` is passed on for the other side to verify; `channel`
        allows no other. Raises MessagingError with the code of what went wrong."""
        message = plain(message)
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
            # A code is the other side's to choose; a series of a metric is not.
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
                answer = await self._carried(routes, target, payload, timeout, channel)
            content = answer.document()
            if is_envelope(content):
                content = Envelope.open(content).content
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), target) from error
        if content.__class__ is dict and content.get("type") == "error" and isinstance(content.get("code"), str):
            raise MessagingError(content["code"], str(content.get("message", ""))[:LONGEST_TEXT], target)
        return content

    async def _carried(
        self, routes: Sequence[MessageRoute], target: str, payload: Payload, timeout: float, channel: str | None
    ) -> Payload:
        """Over the first way that leads there. Another one is tried only where nothing was sent over the one before."""
        request_id, deadline, failures = self._ids(), time.monotonic() + timeout, []
        for route in routes:
            try:
                answer = await route.request(target, request_id, payload, max(0.001, deadline - time.monotonic()))
                if not _is_unknown_there(answer):
                    return answer
                text = str(answer.document().get("message", ""))[:LONGEST_TEXT]
                failures.append((route.channel, MessagingError("unknown_target", text, target)))
            except MessagingError as error:
                error.target = error.target or target
                if error.code not in _NOT_THERE:
                    raise
                failures.append((route.channel, error))
        if failures:
            told = "; ".join(f"{channel}: {error.message}" for channel, error in failures)
            raise MessagingError(failures[0][1].code, told[:LONGEST_TEXT], target) from failures[-1][1]
        raise self._no_way(target, channel)

    def _routes(self, target: str, channel: str | None) -> Sequence[MessageRoute]:
        """The ways to a target: those that are connected first, then by channel."""
        if len(self._carriers) == 1 and channel is None and target != self.module_id:
            return self._carriers[0].routes(target, None)
        if channel is not None and channel not in CHANNELS:
            raise ValueError(f"{channel!r} is no channel (there are: {', '.join(CHANNELS)})")
        found = [route for carrier in self._carriers for route in carrier.routes(target, channel)]
        found.sort(key=lambda route: (not route.ready, CHANNELS.index(route.channel)))
        if target == self.module_id and channel is None and not any(route.ready for route in found):
            return [self._itself]  # nobody else is there who could give it to another process of this module
        return found

    def _no_way(self, target: str, channel: str | None) -> MessagingError:
        if channel is not None:
            text = f"no channel {channel} leads there (see channels.{channel}, services.static)"
        else:
            text = "no channel leads there: run it under an orchestrator, or see channels and services.static"
        return MessagingError("unavailable", text, target)

    async def send(
        self, target: str, message: Any, authorization: str | None = None, channel: str | None = None,
        timeout: float = SEND_TIMEOUT,
    ) -> None:  # fmt: skip
        """Hand a message over, without waiting for what becomes of it; an error that is answered is logged. Over a way
        that keeps messages it returns once the message is kept. Raises MessagingError where no channel is there in
        time, or where it cannot be sent at all."""
        message = plain(message)
        message_type(message)
        try:
            Payload.of(message).to_bytes()  # what has no JSON form is the caller's error, not a log record
            routes = self._routes(target, channel)
            keeping = next((route for route in routes if route.keeps), None)
            if keeping is not None:
                await keeping.keep(target, self._ids(), _envelope(message, authorization, None), timeout)
                self.counts["out", "kept"] += 1
                return
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), target) from error
        if not routes:
            raise self._no_way(target, channel)
        if len(self._sending) >= _MOST_SENDING:
            raise MessagingError("unavailable", f"{_MOST_SENDING} messages are on their way already", target)
        if routes[0].ready:
            await routes[0].drained()
        elif len(routes) == 1:
            await routes[0].available(timeout, target)
        task = asyncio.get_running_loop().create_task(self._sent(target, message, timeout, authorization, channel))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        await asyncio.sleep(0)  # so that it is on its way, in the order of the calls

    async def _sent(
        self, target: str, message: Any, timeout: float, authorization: str | None, channel: str | None
    ) -> None:
        try:
            await self.request(target, message, timeout, authorization, channel)
        except HostError as error:
            logger.warning("a message to %s was not taken: %s", target, error, extra={"target": target})

    # Publishing -----------------------------------------------------------------------------------------------------

    async def publish(self, topic: str, message: Any, channel: str | None = None) -> None:
        """Tell everyone who subscribed, over every channel there is; each handles it once. Raises ValueError where the
        topic is none, MessagingError where the message has no JSON form or no channel is connected."""
        message, properties = plain(message), _trace_properties()
        event_id = self._ids()
        event = Payload.of(Envelope(message, properties, event_id).seal())
        try:
            event.to_bytes()  # as above
        except ProtocolError as error:
            raise MessagingError("invalid_message", str(error), topic) from error
        delivery = Delivery(self.module_id, "process", "process")
        self.topics.deliver(check_topic(topic), message, delivery, event_id, current_request.get())
        taken = [await carrier.publish(topic, event, channel) for carrier in self._carriers]
        if False in taken and True not in taken:
            self.counts["event", "unavailable"] += 1
            raise MessagingError("unavailable", "no channel is connected that it could be published on", topic)
        self.counts["event", "published"] += 1

    def event(self, topic: str, source: str, payload: Payload, channel: str, vouched_by: str) -> None:
        """What another module has published. One that cannot be read, or is beyond its rate, is counted and dropped."""
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
        self.topics.deliver(topic, envelope.content, Delivery(source, channel, vouched_by), envelope.id, context)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving lets what was sent have its answer, if that is quick."""
        try:
            yield
            if self._sending:  # they are on their way; what their answers say is for the log alone
                await asyncio.wait(self._sending, timeout=_LAST_ANSWERS)
        finally:
            for task in self._sending:
                task.cancel()


@dataclass(slots=True)
class _Own:
    """A message of this process to itself."""

    source: str
    payload: Payload
    answered: asyncio.Future[Payload]
    channel: ClassVar[str] = "process"
    vouched_by: ClassVar[str] = "process"
    attempt: ClassVar[int] = 1
    kept: ClassVar[bool] = False

    def answer(self, module_id: str, content: Any) -> None:
        payload = sealed(content)
        payload.to_bytes()  # what has no JSON form is the handler's fault, here as elsewhere
        if not self.answered.done():
            self.answered.set_result(payload)


class _Itself:
    """The way of a module to itself, where no other leads there."""

    channel: ClassVar[str] = "process"
    keeps: ClassVar[bool] = False
    ready: ClassVar[bool] = True

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    async def request(self, target: str, request_id: str, payload: Payload, timeout: float) -> Payload:
        own = _Own(target, payload, asyncio.get_running_loop().create_future())
        self._inbox.take(own)
        try:
            async with asyncio.timeout(timeout):
                return await own.answered
        except TimeoutError:
            raise MessagingError("timeout", f"no answer within {timeout:g}s", target) from None

    async def keep(self, target: str, request_id: str, payload: Payload, timeout: float) -> None:
        raise MessagingError("unsupported", "no message is kept here", target)

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
    """Of the request in whose course the message is sent."""
    request = current_request.get()
    if request is None:
        return {}
    properties = {"request_id": request.request_id.decode("latin-1")}
    if request.trace is not None:
        properties["traceparent"] = request.trace.child()
    return properties


def _is_unknown_there(answer: Payload) -> bool:
    """Whether it says that nobody there knows the target."""
    try:
        content = answer.document()
    except ProtocolError:
        return False  # whoever reads it says so
    return content.__class__ is dict and content.get("type") == "error" and content.get("code") == "unknown_target"


def _never_sent(error: Exception) -> bool:
    """A message is sent again only where it was not sent: nobody knows whether it may be handled twice."""
    return isinstance(error, MessagingError) and error.code == "unavailable"


def _is_failure(error: Exception) -> bool:
    """Whether it says something about the target's condition."""
    return isinstance(error, MessagingError) and error.code in ("unavailable", "timeout", "lost")
