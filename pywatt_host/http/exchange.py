"""One request and its response, as the edge sees them go by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from pywatt_host.http.guard import Guard, Verdict
from pywatt_host.http.problem import problem_body, problem_headers
from pywatt_host.net.limits import Gate, RateLimiter
from pywatt_host.observability.context import TraceContext
from pywatt_host.observability.metrics import Cells
from pywatt_host.types import Message, Receive, Scope, Send


@dataclass(slots=True)
class Plan:
    """What the edge does for the requests of one endpoint, made once.

    Times are in seconds, sizes in octets; None is no limit.
    """

    route: str
    cells: Cells
    timeout: float | None = None
    body: int | None = None
    gate: Gate | None = None
    rate: RateLimiter | None = None
    guard: Guard | None = None  # who may ask; None: everybody
    keys: dict[str, str] = field(default_factory=dict)  # limit -> the manifest key that it came from


class HttpExchange:
    """Everything that the edge wants to know of a request or do to it.

    It sees the response go by in `send`, which wraps the server's; a server of ours reports to `started` and `finish`
    by itself, and its own `send` is then the `outlet`.

    What most requests leave as it is, is an attribute of the class: making one costs as little as possible.
    """

    status = 0  # 0: the response has not started
    octets = 0  # of the response's body
    seconds = 0.0
    trace: TraceContext | None = None
    client = ""
    unavailable = ""  # a store that could not be had: a 500 of the application becomes 503
    reason = ""  # the manifest key or the rule because of which the host answered by itself
    identity: Verdict | None = None  # who asks, where the endpoint wanted to know
    bearer = False  # a WebSocket that brought its token as a subprotocol, and wants `bearer` for an answer
    quiet = False  # neither logged nor counted
    finished = False
    running = False  # counted as running by the edge
    special = False  # needs more than to be handed over: a bound on a streamed body, a time limit
    taken = False  # the host has answered; what the application sends is dropped
    deadline: asyncio.Timeout | None = None
    body_left = 0
    outlet: Send | None = None  # where the response goes in, when something stands before `send`
    receive: Receive

    def __init__(self, scope: Scope, send: Send, plan: Plan, observe: Callable[[HttpExchange], None] | None) -> None:
        self.begun = perf_counter()
        self.path: str = scope["path"]
        self.method: str = scope.get("method", "WEBSOCKET")
        self.plan = plan
        self.request_id = b""
        self._send = send
        self._observe = observe

    @property
    def subject(self) -> str:
        """Who asks; empty where that is not known."""
        return self.identity.subject if self.identity is not None else ""

    @property
    def claims(self) -> dict[str, Any]:
        """What the credential says, a copy; empty where none was asked for."""
        return self.identity.claims if self.identity is not None else {}

    def send(self, message: Message) -> Awaitable[None]:
        """What the application sends. Gives the server's own coroutine, which spares one for each message."""
        if self.taken:
            return _nothing()
        kind = message["type"]
        if kind == "http.response.body":
            self.octets += len(message.get("body", b""))
            if not message.get("more_body", False):
                self.finish()
        elif kind == "http.response.start":
            if self.unavailable and message["status"] == 500:
                return self.stand_in()
            self.started(message["status"])
            headers = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
            headers.append((b"x-request-id", self.request_id))
            message = {**message, "headers": headers}
        return self._send(message)

    def started(self, status: int) -> None:
        """The response starts with this status."""
        self.status = status
        if self.deadline is not None:
            self.deadline.reschedule(None)

    def lost(self, message: Message) -> None:
        """What the application sends to a client that has gone: nobody gets it, and the log has it all the same."""
        if message["type"] == "http.response.start":
            self.started(message["status"])
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finish()

    def send_websocket(self, message: Message) -> Awaitable[None]:
        """What the application sends on a WebSocket."""
        if message["type"] == "websocket.accept":
            self.status = 101
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.request_id)]}
            if self.bearer and not message.get("subprotocol"):
                message["subprotocol"] = "bearer"  # browsers end a connection that selects none of what they offered
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        return self._send(message)

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in place of the application. Nothing that it sends from here on reaches the client."""
        send = self.outlet or self.send
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.taken = True

    async def stand_in(self) -> None:
        """Answer 503 where the application says 500, because a store could not be had: a client may come back."""
        await self.refuse(503, f"{self.unavailable} is not available", headers=[(b"retry-after", b"1")])

    async def refuse(
        self, status: int, reason: str, detail: str = "", headers: Sequence[tuple[bytes, bytes]] = (), **members: Any
    ) -> None:
        """Answer with a problem (RFC 9457); `reason` goes into the log only."""
        self.reason = reason
        body = problem_body(status, detail, **members)
        await self.answer(status, problem_headers(body, headers), body)

    def bound_body(self, receive: Receive, octets: int) -> Receive:
        """`receive` for a body of unknown length, of which `octets` are allowed."""
        self.receive, self.body_left = receive, octets
        return self._bounded_receive

    async def _bounded_receive(self) -> Message:
        """Past the limit the client gets 413, the application a disconnect."""
        if self.taken:
            return {"type": "http.disconnect"}
        message = await self.receive()
        if message["type"] == "http.request":
            self.body_left -= len(message.get("body", b""))
            if self.body_left < 0:
                if not self.status:
                    await self.refuse(
                        413, self.plan.keys.get("body", "server.limits.body"), headers=[(b"connection", b"close")]
                    )
                self.taken = True
                return {"type": "http.disconnect"}
        return message

    def finish(self) -> None:
        """The response is complete, or never will be: report it, once."""
        if not self.finished:
            self.finished = True
            if self._observe is not None:
                self.seconds = perf_counter() - self.begun
                self._observe(self)


async def _nothing() -> None:
    return
