"""One request and its response, as the edge sees them go by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from pywatt_host.http.limits import Gate, RateLimiter
from pywatt_host.http.metrics import Cells
from pywatt_host.http.problem import problem_body, problem_headers
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
    keys: dict[str, str] = field(default_factory=dict)  # limit -> the manifest key that it came from


class Exchange:
    """Wraps the server's `receive` and `send` once, for everything that the edge wants to know or do."""

    __slots__ = (
        "_observe",
        "_receive",
        "_send",
        "begun",
        "body_left",
        "client",
        "deadline",
        "finished",
        "method",
        "octets",
        "outlet",
        "path",
        "plan",
        "quiet",
        "reason",
        "request_id",
        "seconds",
        "status",
        "taken",
        "trace_id",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, plan: Plan, observe: Callable[[Exchange], None]
    ) -> None:
        self.begun = perf_counter()
        self.method: str = scope.get("method", "WEBSOCKET")
        self.path: str = scope["path"]
        self.plan = plan
        self.status = 0
        self.octets = 0
        self.seconds = 0.0
        self.request_id = ""
        self.trace_id = ""
        self.client = ""
        self.reason = ""  # the manifest key or the rule because of which the host answered by itself
        self.quiet = False  # neither logged nor counted
        self.finished = False
        self.taken = False  # the host has answered; what the application sends is dropped
        self.deadline: asyncio.Timeout | None = None
        self.body_left = -1
        self.outlet: Send | None = None  # where the response goes in, when something stands before `send`
        self._receive = receive
        self._send = send
        self._observe = observe

    async def send(self, message: Message) -> None:
        """What the application sends."""
        if self.taken:
            return
        kind = message["type"]
        if kind == "http.response.body":
            self.octets += len(message.get("body", b""))
            await self._send(message)
            if not message.get("more_body", False):
                self.finish()
        elif kind == "http.response.start":
            self.status = message["status"]
            if self.deadline is not None:
                self.deadline.reschedule(None)
            headers = [header for header in message.get("headers", ()) if header[0] != b"x-request-id"]
            headers.append((b"x-request-id", self.request_id.encode()))
            await self._send({**message, "headers": headers})
        else:
            await self._send(message)

    async def answer(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer in place of the application. Nothing that it sends from here on reaches the client."""
        send = self.outlet or self.send
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        self.taken = True

    async def refuse(
        self, status: int, reason: str, detail: str = "", headers: list[tuple[bytes, bytes]] | None = None, **members: Any
    ) -> None:
        """Answer with a problem (RFC 9457); `reason` goes into the log only."""
        self.reason = reason
        body = problem_body(status, detail, **members)
        await self.answer(status, problem_headers(body, headers or []), body)

    async def bounded_receive(self) -> Message:
        """`receive` for a body of unknown length: past the limit the client gets 413, the application a disconnect."""
        if self.taken:
            return {"type": "http.disconnect"}
        message = await self._receive()
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
            self.seconds = perf_counter() - self.begun
            self._observe(self)
