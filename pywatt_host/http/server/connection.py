"""uvicorn's HTTP connections with what they lack: bounds on the request head and a drain that loses nothing.

The classes here derive from uvicorn's protocols and override little of them. Where a uvicorn has another shape than the
one known, `connection_class` gives its plain protocol and says so, and the host still serves.
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
class Listening:
    """What all connections of one server share. Times in seconds; `now` is a coarse clock that the server moves on."""

    header_octets: int
    header_seconds: float
    keep_alive: float
    draining: bool = False
    now: float = 0.0


class BoundedHead:
    """Mixed into a uvicorn protocol. `head_since` is when the head that is awaited began, or None while a request runs
    or the connection idles between two requests (which the keep-alive time bounds)."""

    listening: Listening  # set on the derived class

    def connection_made(self: Any, transport: asyncio.Transport) -> None:
        self.head_since = self.listening.now
        self.head_octets = 0
        self.refusal = 400
        super().connection_made(transport)  # type: ignore[misc]

    def close_after_last(self: Any) -> None:
        """Let the newest request be the connection's last."""
        waiting = getattr(self, "pipeline", None)
        last = waiting[0][0] if waiting else self.cycle
        if waiting and self.cycle is not last and not self.cycle.response_started:
            self.cycle.keep_alive = True
        last.keep_alive = False

    def idle(self: Any) -> bool:
        """Whether no request runs and none has begun to arrive."""
        quiet = self.cycle is None or self.cycle.response_complete
        return quiet and (self.head_since is None or self.head_octets == 0)

    def expire(self: Any) -> None:
        """Called now and then: ends a connection whose head takes too long."""
        if self.head_since is not None and self.listening.now - self.head_since >= self.listening.header_seconds:
            if self.head_octets:
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
        """uvicorn's answer to what is no HTTP, in the host's form."""
        body = problem_body(self.refusal, "The request could not be read as HTTP." if self.refusal == 400 else "")
        head = [f"HTTP/1.1 {self.refusal} {title(self.refusal)}\r\n".encode()]
        for name, value in [*self.server_state.default_headers, *problem_headers(body, [(b"connection", b"close")])]:
            head += [name, b": ", value, b"\r\n"]
        self.transport.write(b"".join([*head, b"\r\n", body]))
        self.transport.close()


class _H11(BoundedHead):
    """Where httptools is not: h11 bounds a head that is incomplete, this one that comes whole as well."""

    def data_received(self: Any, data: bytes) -> None:
        if self.conn.their_state is h11.IDLE:
            head = self.conn.trailing_data[0] + data
            most = self.listening.header_octets
            if len(head) > most and not 0 <= head.find(b"\r\n\r\n") <= most:
                self.refuse_head(431, "server.limits.header")
                return
        super().data_received(data)  # type: ignore[misc]
        waiting = len(self.conn.trailing_data[0]) if self.conn.their_state is h11.IDLE else 0
        if waiting:
            self.head_since = self.head_since or self.listening.now
        self.head_octets = waiting

    def handle_events(self: Any) -> None:
        before = self.cycle
        super().handle_events()  # type: ignore[misc]
        if self.cycle is not before:
            self.head_since = None
            if self.listening.draining:
                self.close_after_last()


def _httptools_class(base: type[Any], listening: Listening) -> type[Any]:
    """The parser's callbacks run for every request: `base` is called by name here, which costs least."""
    received, begun, complete = base.data_received, base.on_message_begin, base.on_headers_complete
    most = listening.header_octets

    class BoundedHttpTools(BoundedHead, base):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            self.arrived = len(data)
            if self.head_since is not None:
                self.head_octets += self.arrived
            received(self, data)
            if self.head_since is not None and self.head_octets > most:
                self.refuse_head(431, "server.limits.header")

        def on_message_begin(self) -> None:
            if self.head_since is None:
                self.head_since, self.head_octets = listening.now, self.arrived
            begun(self)

        def on_headers_complete(self) -> None:
            if self.head_octets > most:
                self.check_head_length()
            before = self.cycle
            complete(self)
            if self.cycle is not before:
                self.head_since = None
                if listening.draining:
                    self.close_after_last()

        def check_head_length(self) -> None:
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > most:
                self.refusal = 431
                raise ValueError("request head over server.limits.header")  # the parser calls send_400_response

    return BoundedHttpTools


# A request target that is a path of characters that mean themselves, and perhaps a query.
_PLAIN_TARGET = re.compile(
    rb"((?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,;=:@-]*)*/?)(?:\?([!-\"$-~]*))?"
).fullmatch


def _lean_class(base: type[Any], cycle_class: type[Any], listening: Listening) -> type[Any]:
    """Over a bounded httptools protocol: scope and cycle made at once, and no timer for each response, since the
    server's tick closes what has idled for too long. What is out of the ordinary goes uvicorn's way."""
    begun, complete = base.on_message_begin, base.on_headers_complete
    most = listening.header_octets

    class LeanHttpTools(base):  # type: ignore[misc]
        idle_since = 0.0
        head_since: float | None
        headers: list[tuple[bytes, bytes]]
        cycle: Any

        def on_message_begin(self) -> None:
            if self.head_since is None:
                self.head_since, self.head_octets = listening.now, self.arrived
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
                or self.head_octets > most
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
            if listening.draining:
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
                self.idle_since = listening.now

        def expire(self) -> None:
            super().expire()
            idle = self.head_since is None and self.cycle is not None and self.cycle.response_complete
            if idle and listening.now - self.idle_since >= listening.keep_alive:
                self.transport.close()

    return LeanHttpTools


# What is overridden or read of uvicorn's protocols.
_KNOWN = ("connection_made", "data_received", "send_400_response", "shutdown", "on_response_complete")


def connection_class(base: type[Any], listening: Listening, *, lean: bool) -> type[Any]:
    """`base` with the behaviour of this module, or `base` itself where its shape is unknown. `lean` takes uvicorn's
    request cycles over as well, where they are the ones known."""
    if any(not callable(getattr(base, name, None)) for name in _KNOWN):
        logger.warning("this uvicorn is unknown: no bounds on request heads (server.limits.header, timeouts.header)")
        return base
    if hasattr(base, "on_headers_complete"):
        made = _httptools_class(base, listening)
        cycle_class = lean_cycle(base) if lean else None
        if cycle_class is not None:
            made = _lean_class(made, cycle_class, listening)
    else:
        made = type("BoundedH11", (_H11, base), {})
    made.listening = listening
    return made
