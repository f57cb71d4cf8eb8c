"""A session with one peer: which answer belongs to which request, and how long to wait for it.

A session knows no transport: it writes to an outlet, the owner of the connection passes received messages to it, and
closes it. All of it runs in one event loop.
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
    GetHostPath,
    GetSecret,
    GetSnapshot,
    Heartbeat,
    HeartbeatAck,
    HostPathAnswer,
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
    Snapshot,
)

MAX_PENDING = 65536  # requests of one session that wait for their answers

Key: TypeAlias = tuple[str, ...]
Request: TypeAlias = (
    GetSecret | Register | Discover | ServiceRequest | ServiceOperation | PortRequest | RouteToModule | HttpRequest
    | Heartbeat | GetSnapshot | GetHostPath
)  # fmt: skip


class Outlet(Protocol):
    """Where a session writes its bytes. `write` never blocks and takes everything; `drained` returns when the peer has
    taken enough for it to be sensible to write more."""

    def write(self, data: bytes) -> None: ...

    async def drained(self) -> None: ...


class Session:
    """Sends messages to a peer and finds the request for each answer.

    `extensions` are those that both sides agreed on; they may be set later, when that becomes known. `limit` is the
    greatest length in bytes of a message that the peer takes.
    """

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
        self._in_order: dict[Key, deque[_QueuePlace]] = {}
        self._places = 0  # taken in all of `_in_order`
        self._asked = 0
        self._lost: HostError | None = None
        self._deadlines: Deadlines[asyncio.Future[Any]] = Deadlines(_expire)

    @property
    def lost(self) -> HostError | None:
        """The error that the session was closed with; None while it is open."""
        return self._lost

    def send(self, message: Message) -> None:
        """Send a message that has no answer. Raises the error that the session was closed with, ProtocolError where the
        message cannot be written as JSON, and MessagingError `too_large` where it is longer than `limit` bytes."""
        self._open()
        self._outlet.write(self._encoded(message))

    def _open(self) -> None:
        if self._lost is not None:
            raise self._lost.with_traceback(None)  # or the error would keep the stack frames of every caller

    def _encoded(self, message: Message) -> bytes:
        data = self._encode(message, self.extensions)
        if len(data) > self._limit:
            raise MessagingError("too_large", f"{message.op} is longer than {self._limit} bytes", self.peer)
        return data

    def _waiting(self) -> list[asyncio.Future[Any]]:
        return [*self._pending.values(), *(place.answer for queue in self._in_order.values() for place in queue)]

    async def drained(self) -> None:
        """Return when the peer keeps up. Raises the error that the session was closed with."""
        await self._outlet.drained()
        self._open()

    async def request(self, message: Request, timeout: float) -> Any:
        """Send a request and return its answer.

        Raises MessagingError: `timeout` after so many seconds (up to 50 ms later), the peer's own code where it answers
        with an error, `unavailable` where too many requests wait already. Raises the error that the session is closed
        with where that happens first.
        """
        self._open()
        if len(self._pending) + self._places >= MAX_PENDING:
            raise MessagingError("unavailable", f"{MAX_PENDING} requests already wait for their answers", self.peer)
        if message.__class__ in _WITHOUT_ID:
            request_id = self._ids() if "request_id" in self.extensions else None
            message = replace(message, request_id=request_id)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        key, unique = _key_of(message)
        data = self._encoded(message)
        if unique:
            if key in self._pending:
                raise MessagingError(
                    "invalid_message", "a request with this id already waits for its answer", self.peer
                )
            self._pending[key] = answer
        else:
            self._queue(key, answer)
        self._deadlines.add(answer, timeout, loop)
        try:
            self._write(data, key, answer)
            result = await answer
        finally:
            self._deadlines.remove(answer)
            # A request that is answered in order keeps its place: its answer may still arrive, and must not go to the
            # next request. With a peer that never answers, places add up: they count as requests that wait.
            if unique:
                self._pending.pop(key, None)
        if result is _EXPIRED:
            raise MessagingError("timeout", f"no answer to {message.op} within {timeout:g}s", self.peer)
        if result.__class__ is Error:
            raise MessagingError(cut(result.code, 60), result.message[:300] or "refused", self.peer)
        return result

    def answered(self, message: Received) -> bool:
        """Give an answer to the request that waits for it. False where the message is not an answer, and the caller has
        to handle it. An answer that arrives too late or twice is dropped."""
        kind = message.__class__
        if kind is Error:
            self._failed(message)  # type: ignore[arg-type]
            return True
        key_of = _ANSWERS.get(kind)
        if key_of is None:
            return False
        request_id = getattr(message, "request_id", None) if kind in _WITHOUT_ID_ANSWERS else None
        if request_id is not None:
            answer = self._pending.get(("id", request_id))
        else:
            key, unique = key_of(message)
            if unique:
                answer = self._pending.get(key)
            else:
                answer = self._next(key)
                while answer is not None and answer.done() and kind in _INTERCHANGEABLE_ANSWERS:
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
            if queue and queue[-1].answer is answer:  # never sent: no answer will come for it
                queue.pop()
                self._places -= 1
                if not queue:
                    del self._in_order[key]
            raise

    def _queue(self, key: Key, answer: asyncio.Future[Any]) -> None:
        queue = self._in_order.setdefault(key, deque())
        if key[0] in _INTERCHANGEABLE:
            while queue and queue[0].answer.done():
                queue.popleft()
                self._places -= 1
        self._asked += 1
        queue.append(_QueuePlace(self._asked, answer))
        self._places += 1

    def _next(self, key: Key) -> asyncio.Future[Any] | None:
        """The request that the next answer belongs to."""
        queue = self._in_order.get(key)
        if queue is None:
            return None
        place = queue.popleft()
        self._places -= 1
        if not queue:
            del self._in_order[key]
        return place.answer

    def close(self, why: HostError) -> None:
        """Close: every request that waits fails with `why`, and so does every later one."""
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
                answer.exception()  # marks it as retrieved: the caller may have been cancelled


class _QueuePlace(NamedTuple):
    """The place of a request that is answered in order. Places are numbered across all kinds of requests."""

    number: int
    answer: asyncio.Future[Any]


class _Expired:
    """The result of a request whose time is over."""


_EXPIRED = _Expired()


def _expire(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_result(_EXPIRED)


# Requests without an id of their own: correlated by their order, or by the id of the extension `request_id`.
_WITHOUT_ID = frozenset((GetSecret, Register, Discover, ServiceOperation, GetSnapshot, GetHostPath))
_WITHOUT_ID_ANSWERS = frozenset((SecretValue, Registered, Discovered, ServiceOperationResult, Snapshot, HostPathAnswer))
# For these, any answer of the same name will do. A peer that left one request unanswered is therefore not out of step
# for ever, as it would be where places count.
_INTERCHANGEABLE = frozenset((GetSecret.op, Heartbeat.op))
_INTERCHANGEABLE_ANSWERS = frozenset((SecretValue, HeartbeatAck))


def _key_of(message: Request) -> tuple[Key, bool]:
    """The key by which the answer is found, and whether only one request can have that key."""
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
    Snapshot: lambda message: ((GetSnapshot.op,), False),
    HostPathAnswer: lambda message: ((GetHostPath.op,), False),
}
ANSWERS = frozenset((*_ANSWERS, Error))  # what `answered` takes


def refusal(message: Received, code: str, text: str, extensions: Extensions) -> Error | None:
    """The error message that answers a request which cannot be answered; None where the peer does not know errors."""
    if "error" not in extensions:
        return None
    request_id = getattr(message, "request_id", None) or getattr(message, "id", None)
    return Error(message.op, code, text, request_id)


def agreed(offered: Extensions, ours: Extensions) -> frozenset[str]:
    """The extensions that both sides support."""
    return frozenset(offered) & frozenset(ours)


def cut(text: str, most: int = 100) -> str:
    """A name from a peer, for a log or an error: escaped, and cut after `most` characters."""
    shown = text[:most].encode("unicode_escape").decode("ascii")
    return shown if len(text) <= most else shown + "..."
