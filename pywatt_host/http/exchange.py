"""One request and its response, as the edge sees them.

`Exchange` is what the edge, the metrics and the access log work with. Our own server makes a `ServerExchange`
(`http/server/exchange.py`), which writes the response itself. Under any other server the edge makes a
`WrappedExchange`, which sees the response in the messages that the application sends.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple

from pywatt_host.http.guard import Guard, Verdict
from pywatt_host.http.problem import problem_body, problem_headers
from pywatt_host.net.limits import Gate, RateLimiter
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.metrics import Cells, NoCells
from pywatt_host.types import Headers, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Plan:
    """The limits and the guard of one endpoint, made once and used for each of its requests.

    Times are in seconds, sizes in bytes; None means no limit.
    """

    route: str
    cells: Cells
    timeout: float | None = None
    body: int | None = None
    gate: Gate | None = None
    rate: RateLimiter | None = None
    guard: Guard | None = None  # None: no credential is needed
    keys: dict[str, str] = field(default_factory=dict)  # limit -> the manifest key that sets it
    bounded: bool = field(init=False)  # has a limit that every request must be checked against

    def __post_init__(self) -> None:
        bounded = self.timeout is not None or self.gate is not None or self.rate is not None
        object.__setattr__(self, "bounded", bounded)


class Refusal(NamedTuple):
    """A response of the host in place of the application's: a problem document (RFC 9457).

    `reason` is for the log, `detail` and `members` are for the client.
    """

    status: int
    reason: str
    detail: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    members: Mapping[str, object] = MappingProxyType({})


NO_PLAN = Plan("unmatched", NoCells())  # of requests that no endpoint table has seen


class Exchange(ABC):
    """The state of one request.

    Defaults are attributes of the class: an exchange is made for each request, and most of them never change.
    """

    status = 0  # of the response; 0: it has not started
    body_bytes = 0  # of the response's body
    seconds = 0.0
    plan: Plan = NO_PLAN
    trace: TraceContext | None = None
    span_id = ""  # of the request's own span; empty where tracing is off
    error_type = ""  # the class of what the application raised
    client = ""
    request_id = b""
    length = 0  # of the request's body, in bytes; CHUNKED (-1) where the head does not say it
    plain = False  # the path is known to have one reading only
    unavailable = ""  # a store that was not available: a 500 of the application becomes 503
    reason = ""  # for the log: the manifest key or the rule because of which the host answered itself
    identity: Verdict | None = None  # of the credential, where the endpoint needs one
    bearer = False  # a WebSocket whose token came as a subprotocol, and which expects `bearer` to be selected
    quiet = False  # neither logged nor counted
    finished = False
    running = False  # counted as running by the edge
    gated = False  # counted as running by the gate of its plan
    arriving = False  # its body is still arriving: it will count as running once that is there
    special = False  # has a streamed body to bound or a time limit, so that it cannot simply be passed on
    taken = False  # the host has answered; what the application sends is dropped
    deadline: asyncio.Timeout | None = None
    outlet: Send | None = None  # where an answer of the host goes, if middleware stands before the response
    explain: Callable[[Exchange, int, str], str] | None = None  # makes the details of refusals
    entered: Callable[[Exchange], None] | None = None  # called before the application is, in its context
    observe: Callable[[Exchange], None] | None = None  # takes the exchange once it has finished
    begun: float
    method: str
    path: str
    scope: Scope

    @property
    def awaits_body(self) -> bool:
        """Whether a part of the request's body is known not to have arrived yet."""
        return False

    @property
    def subject(self) -> str:
        """The subject of the credential; empty where it is not known."""
        return self.identity.subject if self.identity is not None else ""

    @property
    def claims(self) -> dict[str, Any]:
        """A copy of the claims of the credential; empty where none was needed."""
        return self.identity.claims if self.identity is not None else {}

    @abstractmethod
    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer in place of the application. What the application sends from here on is dropped."""

    @abstractmethod
    def bounded(self, receive: Receive, limit: int) -> Receive:
        """A `receive` for the request's body, of which `limit` bytes are allowed. Over the limit, the client gets 413
        and the application a disconnect."""

    def document(self, refusal: Refusal) -> tuple[Headers, bytes]:
        """The headers and the body of a refusal. Its reason becomes that of the exchange."""
        self.reason = refusal.reason
        detail = refusal.detail
        if self.explain is not None:
            detail = self.explain(self, refusal.status, refusal.reason) or detail
        body = problem_body(refusal.status, detail, **refusal.members)
        return problem_headers(body, refusal.headers), body

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with a refusal."""
        headers, body = self.document(refusal)
        await self.answer(refusal.status, headers, body)

    async def _through_outlet(self, status: int, headers: Headers, body: bytes) -> None:
        assert self.outlet is not None
        await self.outlet({"type": "http.response.start", "status": status, "headers": headers})
        await self.outlet({"type": "http.response.body", "body": body})

    def store_unavailable(self) -> Refusal:
        """The 503 with Retry-After in place of the application's 500, since a store was not available."""
        return Refusal(503, f"{self.unavailable} is not available", headers=((b"retry-after", b"1"),))

    def over_body(self) -> Refusal:
        """The refusal of a request whose body is over the limit."""
        return Refusal(413, self.plan.keys.get("body", "server.limits.body"), headers=((b"connection", b"close"),))

    def started(self, status: int) -> None:
        """The response starts with this status."""
        self.status = status
        if self.deadline is not None:
            self.deadline.reschedule(None)

    def finish(self) -> None:
        """Report the exchange, once: the response is complete, or never will be."""
        if not self.finished:
            self.finished = True
            if self.observe is not None:
                self.seconds = perf_counter() - self.begun
                self.observe(self)


class WrappedExchange(Exchange):
    """An exchange under any server, whose `receive` and `send` are wrapped."""

    gone = False  # the client of a WebSocket has gone
    added: Sequence[tuple[bytes, bytes]] = ()  # headers of every response that has none of that name
    _receive: Receive
    _body_left = 0  # bytes of the request's body that may still arrive

    def __init__(self, scope: Scope, send: Send) -> None:
        self.begun = perf_counter()
        self.method = scope.get("method", "WEBSOCKET")
        self.path = scope["path"]
        self.scope = scope
        self._send = send

    def send(self, message: Message) -> Awaitable[None]:
        """Take a message of the application. Returns the coroutine of the server, which saves one for each message."""
        if self.taken:
            return _nothing()
        kind = message["type"]
        if kind == "http.response.body":
            self.body_bytes += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.finish()
        elif kind == "http.response.start":
            if self.unavailable and message["status"] == 500:
                return self.refuse(self.store_unavailable())
            self.started(message["status"])
            headers = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
            headers.append((b"x-request-id", self.request_id))
            message = {**message, "headers": with_added(headers, self.added)}
        return self._send(message)

    async def send_websocket(self, message: Message) -> None:
        """Take a message of the application on a WebSocket."""
        kind = message["type"]
        if kind == "websocket.accept":
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.request_id)]}
            if self.bearer and not message.get("subprotocol"):
                # Browsers close a connection where none of the offered subprotocols is selected.
                message["subprotocol"] = "bearer"
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id)]
            message = {**message, "headers": with_added(headers, self.added)}
        elif kind == "websocket.close" and not self.status:
            self.status = 403
        try:
            await self._send(message)
        except OSError:  # the server says in this way that the client has gone
            self.gone = True
            raise
        if kind == "websocket.accept":
            self.status = 101

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        if self.outlet is not None:
            await self._through_outlet(status, headers, body)
        else:
            await self.send({"type": "http.response.start", "status": status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        self.taken = True

    def bounded(self, receive: Receive, limit: int) -> Receive:
        self._receive, self._body_left = receive, limit
        return self._bounded_receive

    async def _bounded_receive(self) -> Message:
        if self.taken:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            self._body_left -= len(message.get("body", b""))
            if self._body_left < 0:
                if not self.status:
                    await self.refuse(self.over_body())
                self.taken = True
                return {"type": "http.disconnect"}
        return message


def with_added(headers: Headers, added: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers of a response, with those of `added` (in lower case) of which it has none."""
    if not added:
        return headers
    names = {header[0].lower() for header in headers}
    return [*headers, *(header for header in added if header[0] not in names)]


async def _nothing() -> None:
    return
