"""One request and its response, as the edge sees them."""

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


class HttpExchange:
    """The state of one request in the edge.

    The edge sees the response in `send`, which wraps the `send` of the server. Our own server reports to `started` and
    `finish` itself, and its `send` is the `outlet`.

    Defaults are attributes of the class, so that making an exchange costs as little as possible.
    """

    status = 0  # 0: the response has not started
    body_bytes = 0  # sent of the response's body
    seconds = 0.0
    trace: TraceContext | None = None
    client = ""
    unavailable = ""  # a store that was not available: a 500 of the application becomes 503
    reason = ""  # for the log: the manifest key or the rule because of which the host answered itself
    identity: Verdict | None = None  # of the credential, where the endpoint needs one
    bearer = False  # a WebSocket whose token came as a subprotocol, which expects `bearer` as the selected one
    quiet = False  # neither logged nor counted
    finished = False
    running = False  # counted as running by the edge
    special = False  # has a streamed body to bound or a time limit, so that it cannot simply be passed on
    taken = False  # the host has answered; what the application sends is dropped
    deadline: asyncio.Timeout | None = None
    body_left = 0  # bytes of the request's body that may still arrive, where its length was not declared
    outlet: Send | None = None  # the `send` to use in place of `self.send`, where there is another one in front
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
        """The subject of the credential; empty where it is not known."""
        return self.identity.subject if self.identity is not None else ""

    @property
    def claims(self) -> dict[str, Any]:
        """A copy of the claims of the credential; empty where none was needed."""
        return self.identity.claims if self.identity is not None else {}

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
                return self.answer_unavailable()
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

    def sent_after_disconnect(self, message: Message) -> None:
        """Take a message of the application to a client that has disconnected, for the log alone."""
        if message["type"] == "http.response.start":
            self.started(message["status"])
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.finish()

    def send_websocket(self, message: Message) -> Awaitable[None]:
        """Take a message of the application on a WebSocket."""
        if message["type"] == "websocket.accept":
            self.status = 101
            message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", self.request_id)]}
            if self.bearer and not message.get("subprotocol"):
                message["subprotocol"] = (
                    "bearer"  # browsers close a connection where none of the offered subprotocols is selected
                )
        elif message["type"] == "websocket.http.response.start":
            self.status = message["status"]
        return self._send(message)

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in place of the application. What the application sends from here on is dropped."""
        send = self.outlet or self.send
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.taken = True

    async def answer_unavailable(self) -> None:
        """Answer 503 with Retry-After in place of the application's 500, since a store was not available."""
        await self.refuse(503, f"{self.unavailable} is not available", headers=[(b"retry-after", b"1")])

    async def refuse(
        self, status: int, reason: str, detail: str = "", headers: Sequence[tuple[bytes, bytes]] = (), **members: Any
    ) -> None:
        """Answer with a problem document (RFC 9457); `reason` is for the log only."""
        self.reason = reason
        body = problem_body(status, detail, **members)
        await self.answer(status, problem_headers(body, headers), body)

    def bound_body(self, receive: Receive, limit: int) -> Receive:
        """A `receive` for a body of unknown length, of which `limit` bytes are allowed."""
        self.receive, self.body_left = receive, limit
        return self._bounded_receive

    async def _bounded_receive(self) -> Message:
        """Over the limit, the client gets 413 and the application a disconnect."""
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
        """Report the exchange to the edge, once: the response is complete, or never will be."""
        if not self.finished:
            self.finished = True
            if self._observe is not None:
                self.seconds = perf_counter() - self.begun
                self._observe(self)


async def _nothing() -> None:
    return
