"""uvicorn's HTTP connections with bounds on the request head and a drain that loses no request.

The classes here derive from uvicorn's protocols and override few methods. Where uvicorn has another shape than
expected, `connection_class` returns its own protocol and logs a warning, and the host still serves.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Any

import h11

from pywatt_host.http.problem import problem_body, problem_headers, title
from pywatt_host.http.server.cycle import CYCLE, lean_cycle

logger = logging.getLogger("pywatt.server")


@dataclass(slots=True)
class ServerConditions:
    """The limits and the state that all connections of one server share. Times are in seconds; `now` is a coarse clock
    that the server sets."""

    header_bytes: int
    header_seconds: float
    keep_alive: float
    draining: bool = False
    now: float = 0.0


class BoundedHead:
    """A mixin for uvicorn's protocols. `head_since` is when the request head that is awaited began; None while a
    request runs, or while the connection is idle between two requests, which the keep-alive timeout bounds."""

    conditions: ServerConditions  # set on the derived class

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        self.head_since = self.conditions.now
        self.head_bytes = 0
        self.refusal = 400
        super().connection_made(transport)  # type: ignore[misc]

    def close_after_last(self: Any) -> None:
        """Make the newest request the last one of the connection."""
        waiting = getattr(self, "pipeline", None)
        last = waiting[0][0] if waiting else self.cycle
        if waiting and self.cycle is not last and not self.cycle.response_started:
            self.cycle.keep_alive = True
        last.keep_alive = False

    def idle(self: Any) -> bool:
        """Whether no request runs or has begun to arrive."""
        quiet = self.cycle is None or self.cycle.response_complete
        return quiet and (self.head_since is None or self.head_bytes == 0)

    def expire(self: Any) -> None:
        """End the connection where its request head takes too long. The server calls this regularly."""
        if self.head_since is not None and self.conditions.now - self.head_since >= self.conditions.header_seconds:
            if self.head_bytes:
                self.refuse_head(408, "server.timeouts.header")
            else:
                self.transport.close()

    def refuse_head(self: Any, status: int, key: str) -> None:
        if not self.transport.is_closing():
            peer = self.client[0] if self.client else "unix"
            logger.info("%d for %s: over %s", status, peer, key, extra={"key": key, "peer": peer})
            self.refusal = status
            self.send_400_response("")
        self.head_since = None

    def send_400_response(self: Any, msg: str) -> None:
        """The response to bytes that are not HTTP, in place of uvicorn's: a problem document."""
        body = problem_body(self.refusal, "The request could not be read as HTTP." if self.refusal == 400 else "")
        head = [f"HTTP/1.1 {self.refusal} {title(self.refusal)}\r\n".encode()]
        for name, value in [*self.server_state.default_headers, *problem_headers(body, [(b"connection", b"close")])]:
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"\r\n", body]))
        self.transport.close()


class _H11(BoundedHead):
    """For h11, where httptools is not installed: h11 bounds an incomplete head, this class also a complete one."""

    def data_received(self: Any, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            head = self.conn.trailing_data[0] + data
            most = self.conditions.header_bytes
            if len(head) > most and not 0 <= head.find(b"\r\n\r\n") <= most:
                self.refuse_head(431, "server.limits.header")
                return
        super().data_received(data)  # type: ignore[misc]
        waiting = len(self.conn.trailing_data[0]) if self.conn.their_state is h11.IDLE else 0
        if waiting:
            self.head_since = self.head_since or self.conditions.now
        self.head_bytes = waiting

    def handle_events(self: Any) -> None:
        before = self.cycle
        super().handle_events()  # type: ignore[misc]
        if self.cycle is not before:
            self.head_since = None
            if self.conditions.draining:
                self.close_after_last()


def _httptools_class(base: type[Any], conditions: ServerConditions) -> type[Any]:
    """The bounded protocol for httptools. Its methods run for every request, so they call `base` directly."""
    received, begun, complete = base.data_received, base.on_message_begin, base.on_headers_complete
    most = conditions.header_bytes

    class BoundedHttpTools(BoundedHead, base):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            self.arrived = len(data)
            if self.head_since is not None:
                self.head_bytes += self.arrived
            received(self, data)
            if self.head_since is not None and self.head_bytes > most:
                self.refuse_head(431, "server.limits.header")

        def on_message_begin(self) -> None:
            if self.head_since is None:
                self.head_since, self.head_bytes = conditions.now, self.arrived
            begun(self)

        def on_headers_complete(self) -> None:
            if self.head_bytes > most:
                self.check_head_length()
            before = self.cycle
            complete(self)
            if self.cycle is not before:
                self.head_since = None
                if conditions.draining:
                    self.close_after_last()

        def check_head_length(self) -> None:
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > most:
                self.refusal = 431
                raise ValueError("request head over server.limits.header")  # the parser calls send_400_response

    return BoundedHttpTools


# A request target with a path of characters without a special meaning, and an optional query.
_PLAIN_TARGET = re.compile(
    rb"((?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*)*/?)(?:\?([!-\"$-~]*))?"
).fullmatch


def _lean_class(base: type[Any], cycle_class: type[Any], conditions: ServerConditions) -> type[Any]:
    """A bounded httptools protocol that makes scope and cycle at once, and sets no timer for each response, since the
    server regularly closes connections that are idle for too long. Unusual requests are left to uvicorn."""
    begun, complete = base.on_message_begin, base.on_headers_complete
    most = conditions.header_bytes

    class LeanHttpTools(base):  # type: ignore[misc]
        idle_since = 0.0
        head_since: float | None
        headers: list[tuple[bytes, bytes]]
        cycle: Any

        def on_message_begin(self) -> None:
            if self.head_since is None:
                self.head_since, self.head_bytes = conditions.now, self.arrived
            self.url = b""
            self.expect_100_continue = False
            self.headers = []

        def on_headers_complete(self) -> None:
            parser = self.parser
            target = _PLAIN_TARGET(self.url)
            if (
                target is None
                or not target[1]
                or self.expect_100_continue
                or self.head_bytes > most
                or parser.should_upgrade()
                or parser.get_http_version() != "1.1"
            ):
                self.head_complete_as_usual()
                return
            raw_path, query = target.groups()
            running = self.cycle
            self.scope = scope = {
                "type": "http",
                "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
                "http_version": "1.1",
                "server": self.server,
                "client": self.client,
                "scheme": self.scheme,
                "method": parser.get_method().decode("ascii"),
                "root_path": "",
                "path": raw_path.decode("ascii"),
                "raw_path": raw_path,
                "query_string": query or b"",
                "headers": self.headers,
                "state": {},
            }
            self.cycle = scope[CYCLE] = cycle = cycle_class(
                scope,
                self.transport,
                self.flow,
                self.server_state.default_headers,
                parser.should_keep_alive(),
                self.on_response_complete,
            )
            cycle.plain = True
            self.head_since = None
            if running is None or running.response_complete:
                self._start_asgi_task(cycle, self.app)
            else:  # pipelined
                self.flow.pause_reading()
                self.pipeline.appendleft((cycle, self.app))
            if conditions.draining:
                self.close_after_last()

        def head_complete_as_usual(self) -> None:
            url, headers, expects, running = self.url, self.headers, self.expect_100_continue, self.cycle
            begun(self)
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            complete(self)
            if self.cycle is not running:
                self.cycle.__class__ = cycle_class
                self.cycle.keep_alive = self.cycle.keep_alive and self.parser.should_keep_alive()
                self.scope[CYCLE] = self.cycle

        def on_response_complete(self) -> None:
            self.server_state.total_requests += 1
            if self.transport.is_closing():
                return
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())
            else:
                self.idle_since = conditions.now

        def expire(self) -> None:
            super().expire()
            idle = self.head_since is None and self.cycle is not None and self.cycle.response_complete
            if idle and conditions.now - self.idle_since >= conditions.keep_alive:
                self.transport.close()

    return LeanHttpTools


# The methods of uvicorn's protocols that are overridden or used here.
_KNOWN = ("connection_made", "data_received", "send_400_response", "shutdown", "on_response_complete")


def connection_class(base: type[Any], conditions: ServerConditions, *, lean: bool) -> type[Any]:
    """`base` with the bounds of this module; `base` itself where its shape is unknown. With `lean`, uvicorn's request
    cycles are replaced as well, where their shape is known."""
    if any(not callable(getattr(base, name, None)) for name in _KNOWN):
        logger.warning(
            "this version of uvicorn is not known: request heads have no limits (server.limits.header, timeouts.header)"
        )
        return base
    if hasattr(base, "on_headers_complete"):
        made = _httptools_class(base, conditions)
        cycle_class = lean_cycle(base) if lean else None
        if cycle_class is not None:
            made = _lean_class(made, cycle_class, conditions)
    else:
        made = type("BoundedH11", (_H11, base), {})
    made.conditions = conditions
    return made
