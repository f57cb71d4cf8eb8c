"""One conversation with a peer: which answer belongs to which request, and how long to wait for it.

A session knows no transport: it is given a function that takes octets, is told what was received, and is closed by
whoever owns the connection. All of it runs in one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeAlias

from pywatt_host.exceptions import HostError, MessagingError
from pywatt_host.protocol.codec import Encode, Ids
from pywatt_host.protocol.deadlines import Deadlines
from pywatt_host.protocol.messages import (
    Discover,
    Discovered,
    Error,
    Extensions,
    GetSecret,
    Heartbeat,
    HeartbeatAck,
    HttpRequest,
    HttpResponse,
    Message,
    PortRequest,
    PortResponse,
    Received,
    Register,
    Registered,
    RoutedResponse,
    RouteToModule,
    SecretValue,
    ServiceOperation,
    ServiceOperationResult,
    ServiceRequest,
    ServiceResponse,
)

MOST_PENDING = 65536  # requests of one session that may wait for their answers

Key: TypeAlias = tuple[str, ...]
Request: TypeAlias = (
    GetSecret | Register | Discover | ServiceRequest | ServiceOperation | PortRequest | RouteToModule | HttpRequest
    | Heartbeat
)  # fmt: skip


class Outlet(Protocol):
    """Where a session's octets go. `write` never blocks and takes everything; `drained` returns when the peer has
    taken enough of it for more to be sensible."""

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class Session:
    """`extensions` are those that both sides agreed on; they may be set when that becomes known. `limit` is the most
    octets of a message that the peer takes."""

    def __init__(
        self, peer: str, outlet: Outlet, encode: Encode, extensions: Extensions = frozenset(), limit: int = 16 * 1024**2
    ) -> None:
        self.peer = peer
        self.extensions = extensions
        self._limit = limit
        self._outlet = outlet
        self._encode = encode
        self._ids = Ids()
        self._pending: dict[Key, asyncio.Future[Any]] = {}
        self._in_order: dict[Key, deque[_Place]] = {}
        self._places = 0  # taken in all of `_in_order`
        self._asked = 0
        self._lost: HostError | None = None
        self._deadlines: Deadlines[asyncio.Future[Any]] = Deadlines(_expire)

    @property
    def lost(self) -> HostError | None:
        """Why it is closed; None while it is open."""
        return self._lost

    def send(self, message: Message) -> None:
        """Raises what the session was closed with, ProtocolError where the message has no JSON form, and MessagingError
        `too_large` where it is longer than `limit` octets."""
        self._open()
        self._outlet.write(self._octets(message))

    def _open(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)  # or it would keep the frames of everyone who was told

    def _octets(self, message: Message) -> bytes:
        data = self._encode(message, self.extensions)
        if len(data) > self._limit:
            raise MessagingError("too_large", f"{message.op} is longer than {self._limit} octets", self.peer)
        return data

    def _waiting(self) -> list[asyncio.Future[Any]]:
        return [*self._pending.values(), *(place.answer for queue in self._in_order.values() for place in queue)]

    async def drained(self) -> None:
        """Returns when the peer keeps up. Raises what the session was closed with."""
        await self._outlet.drained()
        self._open()

    async def request(self, message: Request, timeout: float) -> Any:
        """The answer. Raises MessagingError `timeout` after so many seconds (up to 50 ms later), with the peer's own
        code where it answered with an error, and what the session was closed with where that happens first."""
        self._open()
        if len(self._pending) + self._places >= MOST_PENDING:
            raise MessagingError("unavailable", f"{MOST_PENDING} requests wait for their answers", self.peer)
        if message.__class__ in _NAMELESS:
            request_id = self._ids() if "request_id" in self.extensions else None
            message = replace(message, request_id=request_id)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        key, unique = _key_of(message)
        data = self._octets(message)
        if unique:
            if key in self._pending:
                raise MessagingError("invalid_message", "a request with this id waits for its answer", self.peer)
            self._pending[key] = answer
        else:
            self._queue(key, answer)
        self._deadlines.add(answer, timeout, loop)
        try:
            self._write(data, key, answer)
            result = await answer
        finally:
            self._deadlines.remove(answer)
            # What is answered in order keeps its place: its answer may still come, and must not be the next one's.
            # A peer that never answers makes places add up: they count as requests that wait.
            if unique:
                self._pending.pop(key, None)
        if result is _EXPIRED:
            raise MessagingError("timeout", f"no answer to {message.op} within {timeout:g}s", self.peer)
        if result.__class__ is Error:
            raise MessagingError(cut(result.code, 60), result.message[:300] or "refused", self.peer)
        return result

    def answered(self, message: Received) -> bool:
        """Take an answer to its request. False where the message is none, so that somebody else has to look at it;
        one that comes too late or twice is dropped."""
        kind = message.__class__
        if kind is Error:
            self._failed(message)  # type: ignore[arg-type]
            return True
        key_of = _ANSWERS.get(kind)
        if key_of is None:
            return False
        request_id = getattr(message, "request_id", None) if kind in _NAMELESS_ANSWERS else None
        if request_id is not None:
            answer = self._pending.get(("id", request_id))
        else:
            key, unique = key_of(message)
            if unique:
                answer = self._pending.get(key)
            else:
                answer = self._next(key)
                while answer is not None and answer.done() and kind in _ALIKE_ANSWERS:
                    answer = self._next(key)
        if answer is not None and not answer.done():
            answer.set_result(message)
        return True

    def _failed(self, error: Error) -> None:
        if error.request_id is not None:
            for kind in ("id", "service_request", "port_request", "route_to_module", "http_request"):
                answer = self._pending.get((kind, error.request_id))
                if answer is not None:
                    if not answer.done():
                        answer.set_result(error)
                    return
            return
        oldest = min(
            ((queue[0].number, key) for key, queue in self._in_order.items() if key[0] == error.in_reply_to),
            default=None,
        )
        answer = None if oldest is None else self._next(oldest[1])
        if answer is not None and not answer.done():
            answer.set_result(error)

    def _write(self, data: bytes, key: Key, answer: asyncio.Future[Any]) -> None:
        try:
            self._outlet.write(data)
        except HostError:
            queue = self._in_order.get(key)
            if queue and queue[-1].answer is answer:  # never asked: nothing will come in its place
                queue.pop()
                self._places -= 1
                if not queue:
                    del self._in_order[key]
            raise

    def _queue(self, key: Key, answer: asyncio.Future[Any]) -> None:
        queue = self._in_order.setdefault(key, deque())
        if key[0] in _ALIKE:
            while queue and queue[0].answer.done():
                queue.popleft()
                self._places -= 1
        self._asked += 1
        queue.append(_Place(self._asked, answer))
        self._places += 1

    def _next(self, key: Key) -> asyncio.Future[Any] | None:
        """Whose turn it is to be answered."""
        queue = self._in_order.get(key)
        if queue is None:
            return None
        place = queue.popleft()
        self._places -= 1
        if not queue:
            del self._in_order[key]
        return place.answer

    def close(self, why: HostError) -> None:
        """Every request that waits fails with `why`, and so does every later one."""
        if self._lost is not None:
            return
        self._lost = why
        waiting = self._waiting()
        self._pending.clear()
        self._in_order.clear()
        self._places = 0
        for answer in waiting:
            if not answer.done():
                answer.set_exception(why)
                answer.exception()  # whoever asked may have been cancelled: then nobody takes it


class _Place(NamedTuple):
    """A request that is answered in order; they are numbered through."""

    number: int
    answer: asyncio.Future[Any]


class _Expired:
    """What a request is answered with when its time is over."""


_EXPIRED = _Expired()


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_result(_EXPIRED)


# Requests that have no id of their own: answered in order, or by the id of the extension `request_id`.
_NAMELESS = frozenset((GetSecret, Register, Discover, ServiceOperation))
_NAMELESS_ANSWERS = frozenset((SecretValue, Registered, Discovered, ServiceOperationResult))
# One answer of these is as good as the next of its name: a peer that left one request unanswered is not out of step for
# ever, as it would be where places count.
_ALIKE = frozenset((GetSecret.op, Heartbeat.op))
_ALIKE_ANSWERS = frozenset((SecretValue, HeartbeatAck))


def _key_of(message: Request) -> tuple[Key, bool]:
    """What the answer is found by, and whether only one request can have it."""
    kind = message.__class__
    if kind is RouteToModule or kind is HttpRequest or kind is PortRequest:
        return (message.op, message.request_id), True  # type: ignore[union-attr,return-value]
    if kind is ServiceRequest:
        return (message.op, message.id), True  # type: ignore[union-attr]
    if kind is Heartbeat:
        return (message.op,), False
    request_id: str | None = message.request_id  # type: ignore[union-attr]
    if request_id is not None:
        return ("id", request_id), True
    return ((message.op, message.name) if kind is GetSecret else (message.op,)), False  # type: ignore[union-attr]


_ANSWERS: dict[type[Any], Callable[[Any], tuple[Key, bool]]] = {
    RoutedResponse: lambda message: ((RouteToModule.op, message.request_id), True),
    HttpResponse: lambda message: ((HttpRequest.op, message.request_id), True),
    PortResponse: lambda message: ((PortRequest.op, message.request_id), True),
    ServiceResponse: lambda message: ((ServiceRequest.op, message.id), True),
    SecretValue: lambda message: ((GetSecret.op, message.name), False),
    Registered: lambda message: ((Register.op,), False),
    Discovered: lambda message: ((Discover.op,), False),
    ServiceOperationResult: lambda message: ((ServiceOperation.op,), False),
    HeartbeatAck: lambda message: ((Heartbeat.op,), False),
}
ANSWERS = frozenset((*_ANSWERS, Error))  # what `answered` takes


def refusal(message: Received, code: str, text: str, extensions: Extensions) -> Error | None:
    """The error that answers a request which cannot be answered; None where the peer does not know errors."""
    if "error" not in extensions:
        return None
    request_id = getattr(message, "request_id", None) or getattr(message, "id", None)
    return Error(message.op, code, text, request_id)


def agreed(offered: Extensions, ours: Extensions) -> frozenset[str]:
    """The extensions of both sides."""
    return frozenset(offered) & frozenset(ours)


def cut(text: str, most: int = 100) -> str:
    """A name from a peer as a log shows it: escaped, and cut where it is long."""
    shown = text[:most].encode("unicode_escape").decode("ascii")
    return shown if len(text) <= most else shown + "..."
