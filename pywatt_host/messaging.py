"""Messages between modules: sending, asking, and the handlers that answer."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from asyncio import TaskGroup
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pywatt_host.conversation import Conversation
from pywatt_host.exceptions import HostError, MessagingError, ProtocolError
from pywatt_host.handlers import Found, Handlers
from pywatt_host.logs import current_request
from pywatt_host.protocol.codec import Ids
from pywatt_host.protocol.deadlines import Deadlines
from pywatt_host.protocol.messages import RoutedMessage, RoutedResponse, RouteToModule
from pywatt_host.protocol.payload import Envelope, Payload, looks_sealed
from pywatt_host.protocol.session import cut
from pywatt_host.uplink import Uplink

logger = logging.getLogger("pywatt.messages")

_WAITING_EACH = 16  # messages that may wait for each one that may run
_LONGEST_TEXT = 300
_LAST_ANSWERS = 1.0  # seconds that the answers to what was sent are waited for at the end
_DEADLINE = "deadline"  # why a handler's task is cancelled
SEND_TIMEOUT = 30.0  # seconds in which a message that nobody waits for is answered, before that is logged


@dataclass(slots=True)
class _Incoming:
    """A message of another module, and the way back."""

    source: str
    request_id: str
    payload: Payload
    conversation: Conversation
    routed: bool  # by the orchestrator, else by the peer itself

    def answer(self, module_id: str, content: Any) -> None:
        payload = Payload.of(Envelope(content).seal() if looks_sealed(content) else content)
        if self.routed:
            self.conversation.session.send(RouteToModule(self.source, "", self.request_id, payload))
        else:
            self.conversation.session.send(RoutedResponse(module_id, self.request_id, payload))


@dataclass(slots=True)
class _Trace:
    """What the log records of a handler carry."""

    request_id: bytes = b""
    trace_id: str = ""
    unavailable: str = ""
    claims: dict[str, Any] = field(default_factory=dict)


# The claims of an Authorization header's value. Raises MessagingError where it does not hold.
Vouch: TypeAlias = Callable[[str], Awaitable[dict[str, Any]]]


class Messages:
    """The messages of one module. Handlers run beside each other, `most` at a time; a crash is an answer."""

    name = "messages"

    def __init__(self, module_id: str, uplink: Uplink, most: int) -> None:
        self.module_id = module_id
        self.counts: Counter[tuple[str, str]] = Counter()  # direction and result
        self.vouch: Vouch | None = None  # None: credentials of messages are not looked at
        self._uplink = uplink
        self._most = most
        self._ids = Ids()
        self.handlers = Handlers()
        self._deadlines: Deadlines[asyncio.Task[None]] = Deadlines(lambda task: task.cancel(_DEADLINE))
        self._waiting: deque[_Incoming] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()
        self._draining = False

    # Out ------------------------------------------------------------------------------------------------------------

    async def request(self, target: str, message: Any, timeout: float, authorization: str | None = None) -> Any:
        """The reply of the target's handler. `authorization` is passed on for the other side to verify. Raises
        MessagingError with the code of what went wrong."""
        properties: dict[str, Any] = {"deadline": time.time() + timeout}
        if authorization is not None:
            properties["authorization"] = authorization
        _add_trace(properties)
        envelope = {"content": message, "metadata": {"properties": properties}}
        routed = RouteToModule(target, _type_of(message), self._ids(), Payload.of(envelope))
        try:
            answer: RoutedResponse = await self._uplink.request(routed, timeout, target)
            content = answer.payload.document()
            if looks_sealed(content):
                content = Envelope.open(content).content
        except MessagingError as error:
            self.counts["out", error.code] += 1
            raise
        except ProtocolError as error:
            self.counts["out", "invalid_message"] += 1
            raise MessagingError("invalid_message", str(error), target) from error
        if content.__class__ is dict and content.get("type") == "error" and isinstance(content.get("code"), str):
            self.counts["out", cut(content["code"], 40)] += 1
            raise MessagingError(content["code"], str(content.get("message", ""))[:_LONGEST_TEXT], target)
        self.counts["out", "ok"] += 1
        return content

    async def send(
        self, target: str, message: Any, timeout: float = SEND_TIMEOUT, authorization: str | None = None
    ) -> None:
        """Hand a message over, without waiting for what becomes of it; an error that is answered is logged. Raises
        MessagingError where no channel is there in time, or where it cannot be sent at all."""
        Payload.of(message).octets  # noqa: B018 -- what has no JSON form is the caller's error, not a record in the log
        _type_of(message)
        if not self._uplink.conversations():
            await self._uplink.available(timeout, target)
        await self._uplink.drained()
        task = asyncio.get_running_loop().create_task(self._sent(target, message, timeout, authorization))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        await asyncio.sleep(0)  # so that it is on its way, in the order of the calls

    async def _sent(self, target: str, message: Any, timeout: float, authorization: str | None) -> None:
        try:
            await self.request(target, message, timeout, authorization)
        except HostError as error:
            logger.warning("a message to %s was not taken: %s", target, error, extra={"target": target})

    # In -------------------------------------------------------------------------------------------------------------

    def routed(self, message: RoutedMessage, conversation: Conversation) -> None:
        """A message that the orchestrator passes on."""
        self._take(
            _Incoming(message.source_module_id, message.original_request_id, message.payload, conversation, True)
        )

    def direct(self, message: RouteToModule, conversation: Conversation) -> None:
        """A message of a peer that is connected to this module."""
        source = conversation.module_id
        self._take(_Incoming(source, message.request_id, message.payload, conversation, False))

    def _take(self, incoming: _Incoming) -> None:
        if self._draining:
            self._refuse(incoming, "handler_failed", "the module is stopping")
        elif len(self._running) < self._most:
            self._start(incoming)
        elif len(self._waiting) < self._most * _WAITING_EACH:
            self._waiting.append(incoming)
        else:
            self._refuse(
                incoming, "handler_failed", "the module has too many messages waiting (channels.limits.messages)"
            )

    def _start(self, incoming: _Incoming) -> None:
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
        deadline = envelope.deadline
        left = math.inf if deadline is None else deadline - time.time()
        if left <= 0:
            self._refuse(incoming, "timeout", "the deadline had passed before it was handled")
            return
        context = None
        properties = envelope.properties
        authorization = properties.get("authorization") if self.vouch is not None else None
        if "request_id" in properties or "traceparent" in properties or authorization is not None:
            context = copy_context()
            context.run(current_request.set, _trace(properties))
        loop = asyncio.get_running_loop()
        task = _started(loop, self._handle(incoming, found, content, authorization), context)
        if task.done():
            return
        self._running.add(task)
        task.add_done_callback(self._done)
        if left < math.inf:
            self._deadlines.add(task, left, loop)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._deadlines.remove(task)
        while self._waiting and len(self._running) < self._most:
            self._start(self._waiting.popleft())

    async def _handle(self, incoming: _Incoming, found: Found, content: Any, authorization: Any) -> None:
        try:
            if authorization is not None and self.vouch is not None:
                current = current_request.get()
                assert isinstance(current, _Trace)
                current.claims = await self.vouch(str(authorization))
            reply = await found(content)
            incoming.answer(self.module_id, reply)
            self.counts["in", "ok"] += 1
        except asyncio.CancelledError as error:
            if error.args == (_DEADLINE,):
                self._refuse(incoming, "timeout", "the deadline passed while it was handled")
                return
            self._refuse(incoming, "handler_failed", "the module is stopping")
            raise
        except (MessagingError, ProtocolError) as error:
            code = error.code if error.code in _CODES else "handler_failed"
            self._refuse(incoming, code, error.message)
        except Exception as error:  # named boundary: a handler is the user's code; its failure is the answer
            logger.exception("the handler for %s raised", cut(str(content.get("type")), 60))
            self._refuse(incoming, "handler_failed", str(error) or type(error).__name__)

    def _refuse(self, incoming: _Incoming, code: str, text: str) -> None:
        self.counts["in", code] += 1
        try:
            incoming.answer(self.module_id, {"type": "error", "code": code, "message": text[:_LONGEST_TEXT]})
        except HostError as error:
            logger.debug("%s got no answer: %s", cut(incoming.source, 60), error)

    # As a service ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        """Leaving lets the handlers that run come to their end, and what was sent have its answer if that is quick."""
        try:
            yield
            self._draining = True
            while self._waiting:
                self._refuse(self._waiting.popleft(), "handler_failed", "the module is stopping")
            if self._running:
                await asyncio.wait(self._running)
            if self._sending:  # they are on their way; what their answers say is for the log alone
                await asyncio.wait(self._sending, timeout=_LAST_ANSWERS)
        finally:
            self._draining = True
            for task in (*self._running, *self._sending):
                task.cancel()

    async def check(self) -> None:
        return


def _started(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], context: Context | None
) -> asyncio.Task[None]:
    """A task that has begun already, where Python can do that (3.12): a handler that waits for nothing is then done."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(work, loop=loop, context=context, eager_start=True)
    return loop.create_task(work, context=context)


_CODES = frozenset({"no_handler", "invalid_message", "handler_failed", "timeout", "unknown_target", "too_large"})


def _type_of(message: Any) -> str:
    """Raises MessagingError where it is no message."""
    type = message.get("type") if isinstance(message, dict) else None
    if not isinstance(type, str):
        raise MessagingError("invalid_message", 'a message is a dict with a "type", such as {"type": "ping"}')
    return type


def _add_trace(properties: dict[str, Any]) -> None:
    """The request in whose course the message is sent."""
    request = current_request.get()
    if request is not None:
        properties["request_id"] = request.request_id.decode("latin-1")
        if request.trace_id:
            properties["traceparent"] = f"00-{request.trace_id}-{os.urandom(8).hex()}-01"


def _trace(properties: Any) -> _Trace:
    request_id, parent = properties.get("request_id"), properties.get("traceparent")
    parts = parent.split("-") if isinstance(parent, str) else []
    return _Trace(
        cut(request_id, 128).encode() if isinstance(request_id, str) else b"",
        parts[1] if len(parts) == 4 and len(parts[1]) == 32 and parts[1].isalnum() else "",
    )
