"""The edge: one pass over each request, before and after the application.

Reading of the path, request id, trace, forwarding headers, the host's own paths, endpoint, limits, then the
application; on the way back status, metrics and the access log. One match, one wrapped `send`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pywatt_host.http.accesslog import AccessLog
from pywatt_host.http.endpoints import Table, allowed, lookup
from pywatt_host.http.exchange import Exchange, Plan
from pywatt_host.http.forwarding import FORGEABLE, Forwarding
from pywatt_host.http.paths import ambiguity
from pywatt_host.http.problem import refuse_websocket
from pywatt_host.logs import ResponseCut, request_fields
from pywatt_host.types import ASGIApp, Headers, Message, Receive, Scope, Send

logger = logging.getLogger("pywatt.edge")
app_logger = logging.getLogger("pywatt.app")

_SANE_ID = re.compile(rb"[A-Za-z0-9._:@/+=-]{1,128}\Z")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?\Z")  # W3C Trace Context
_NO_TRACE = b"0" * 32
_WATCHED = FORGEABLE | {b"x-request-id", b"traceparent", b"content-length", b"transfer-encoding"}
_IN_CORS = "pywatt.cors"
_CLIENT_CLOSED = 499  # what the log says where a client left before anything was answered
_TOLD_EVERY = 1.0  # seconds between two warnings about the same limit

Answer: TypeAlias = tuple[int, Headers, bytes]
OwnPath: TypeAlias = Callable[[Scope], Awaitable[Answer | None]]


@dataclass(frozen=True, slots=True)
class Mount:
    """One application under its prefix. `strict` says what happens to a path that can be read in two ways."""

    prefix: str
    app: ASGIApp
    strict: bool

    def covers(self, path: str) -> bool:
        return self.prefix == "/" or path == self.prefix or path.startswith(self.prefix + "/")


@dataclass(frozen=True, slots=True)
class Routes:
    """Which endpoints there are.

    `closed`: what no template fits is 404, an other method 405; else such requests go to the application, under
    `unmatched`. `plan_for` gives the plan for what the table found (None: nothing) and a path.
    """

    table: Table[Plan]
    closed: bool
    plan_for: Callable[[Plan | None, str, str], Plan]
    unmatched: Plan


class Edge:
    """An ASGI application around all of a host's applications."""

    def __init__(
        self,
        *,
        mounts: list[Mount],
        routes: Routes,
        own: Mapping[str, OwnPath],
        forwarding: Forwarding,
        access_log: AccessLog,
        concurrency: int,
        cors: Callable[[ASGIApp], ASGIApp] | None = None,
    ) -> None:
        self._mounts = sorted(mounts, key=lambda mount: len(mount.prefix), reverse=True)
        self._only = self._mounts[0] if len(mounts) == 1 and mounts[0].prefix == "/" else None
        self._routes = routes
        self._own = own
        self._forwarding = forwarding
        self._log = access_log
        self._concurrency = concurrency
        self._cors = cors(self._inside_cors) if cors is not None else None
        self._told: dict[str, float] = {}
        self._bits = random.Random(os.urandom(16)).getrandbits
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send, self._routes.unmatched, self._observe)
        length, streamed = self._read_head(scope, exchange)
        if scope["type"] == "http":
            await self._http(scope, receive, exchange, length, streamed)
        else:
            await self._websocket(scope, receive, send, exchange)

    def _read_head(self, scope: Scope, exchange: Exchange) -> tuple[int, bool]:
        """One look at the headers: the declared body length (-1: none or not a number) and whether a body streams in."""
        length, streamed, foreign_id, forwarded, headers = -1, False, False, False, scope["headers"]
        for name, value in headers:
            if name in _WATCHED:
                if name == b"content-length":
                    length = int(value) if value.isdigit() and len(value) < 20 else -1
                elif name == b"transfer-encoding":
                    streamed = True
                elif name == b"x-request-id":
                    if _SANE_ID.match(value) and not exchange.request_id:
                        exchange.request_id = value.decode()
                    else:
                        foreign_id = True
                elif name == b"traceparent":
                    match = _TRACEPARENT.match(value)
                    if match is not None and match[1] != _NO_TRACE:
                        exchange.trace_id = match[1].decode()
                else:
                    forwarded = True
            elif name[:12] == b"x-forwarded-":
                forwarded = True
        if forwarded:
            self._forwarding.apply(scope)
            headers = scope["headers"]
        if foreign_id:
            scope["headers"] = headers = [header for header in headers if header[0] != b"x-request-id"]
            exchange.request_id = ""
        if not exchange.request_id:
            exchange.request_id = f"{self._bits(128):032x}"
            headers.append((b"x-request-id", exchange.request_id.encode()))
        client = scope.get("client")
        if client is not None:
            exchange.client = client[0]
        fields = {"request_id": exchange.request_id}
        if exchange.trace_id:
            fields["trace_id"] = exchange.trace_id
        request_fields.set(fields)
        return length, streamed

    # HTTP -----------------------------------------------------------------------------------------------------------

    async def _http(
        self, scope: Scope, receive: Receive, exchange: Exchange, length: int, streamed: bool
    ) -> None:
        try:
            if self._cors is None:
                await self._answer(scope, receive, exchange, length, streamed)
            else:
                scope[_IN_CORS] = (exchange, length, streamed)
                await self._cors(scope, receive, exchange.send)
        except Exception as error:  # named boundary: the user's application
            app_logger.error("%s %s raised", exchange.method, exchange.path, exc_info=error)
            if exchange.status == 0:
                await exchange.refuse(500, "application raised", request_id=exchange.request_id)
            elif not exchange.finished:
                exchange.reason = "application raised"
                raise ResponseCut from None
        finally:
            if not exchange.finished:
                exchange.status = exchange.status or _CLIENT_CLOSED
                exchange.reason = exchange.reason or "not completed"
                exchange.finish()

    async def _inside_cors(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What is no preflight: `send` adds the CORS headers and then is the exchange's own."""
        exchange, length, streamed = scope.pop(_IN_CORS)
        exchange.outlet = send
        await self._answer(scope, receive, exchange, length, streamed)

    async def _answer(
        self, scope: Scope, receive: Receive, exchange: Exchange, length: int, streamed: bool
    ) -> None:
        path = exchange.path
        if path in self._own and await self._own_path(scope, exchange):
            return
        mount = self._only or self._mount(path)
        rule = ambiguity(path, scope.get("raw_path"))
        if rule is not None and (mount is None or mount.strict):
            await exchange.refuse(400, f"{rule} (server.paths)", "The path can be read in more than one way.")
            return
        plan = await self._plan(path, exchange)
        if plan is None:
            return
        if mount is None:
            await exchange.refuse(404, "no application under this path")
            return
        if plan.rate is not None:
            wait = plan.rate.wait_for(exchange.client)
            if wait > 0:
                retry = (b"retry-after", str(math.ceil(wait)).encode())
                await self._refuse_limit(exchange, 429, "rate", [retry])
                return
        if plan.body is not None:
            if length > plan.body:
                await self._refuse_limit(exchange, 413, "body", [(b"connection", b"close")])
                return
            if streamed:
                exchange.body_left = plan.body
                receive = exchange.bounded_receive
        gate = plan.gate
        if self.running >= self._concurrency or (gate is not None and gate.full()):
            limit = "concurrency" if self.running < self._concurrency else ""
            await self._refuse_limit(exchange, 503, limit, [(b"retry-after", b"1")])
            return
        self.running += 1
        if gate is not None:
            gate.running += 1
        try:
            if plan.timeout is None:
                await mount.app(scope, receive, exchange.outlet or exchange.send)
            else:
                await self._within(plan.timeout, mount.app, scope, receive, exchange)
        finally:
            self.running -= 1
            if gate is not None:
                gate.running -= 1

    def _mount(self, path: str) -> Mount | None:
        for mount in self._mounts:
            if mount.covers(path):
                return mount
        return None

    async def _own_path(self, scope: Scope, exchange: Exchange) -> bool:
        """Health, metrics: answered by the host, neither logged nor counted. False: the application answers it."""
        exchange.quiet = True
        if exchange.method not in ("GET", "HEAD"):
            await exchange.refuse(405, "a path of the host", headers=[(b"allow", b"GET, HEAD")])
            return True
        answer = await self._own[exchange.path](scope)
        if answer is None:
            return False
        await exchange.answer(*answer)
        return True

    async def _plan(self, path: str, exchange: Exchange) -> Plan | None:
        """The plan for a request; None where it has been refused."""
        methods = self._routes.table.match(path)
        found = lookup(methods, exchange.method) if methods is not None else None
        if found is None and self._routes.closed:
            if methods is None:
                await exchange.refuse(404, "no such endpoint (endpoints)")
            else:
                exchange.plan = next(iter(methods.values()))
                allow = [(b"allow", allowed(methods).encode())]
                await exchange.refuse(405, "no such method here (endpoints)", headers=allow)
            return None
        if found is None and methods:
            found = next(iter(methods.values()))  # the application knows the path and says itself what it makes of this
        exchange.plan = plan = self._routes.plan_for(found, path, exchange.method)
        return plan

    async def _refuse_limit(self, exchange: Exchange, status: int, limit: str, headers: Headers) -> None:
        key = exchange.plan.keys.get(limit, "server.limits.concurrency")
        now = time.monotonic()
        if now - self._told.get(key, -math.inf) >= _TOLD_EVERY:
            self._told[key] = now
            logger.warning(
                "%d for %s %s: over %s", status, exchange.method, exchange.plan.route, key, extra={"key": key}
            )
        await exchange.refuse(status, key, headers=headers)

    async def _within(
        self, seconds: float, app: ASGIApp, scope: Scope, receive: Receive, exchange: Exchange
    ) -> None:
        """Until the response starts, the application has `seconds`; then it is cancelled and the client gets 504."""
        try:
            async with asyncio.timeout(seconds) as exchange.deadline:
                await app(scope, receive, exchange.outlet or exchange.send)
        except TimeoutError:
            if exchange.deadline is None or not exchange.deadline.expired():
                raise
            exchange.deadline = None
            key = exchange.plan.keys.get("timeout", "server.timeouts.request")
            logger.warning("504 for %s %s: over %s", exchange.method, exchange.plan.route, key, extra={"key": key})
            await exchange.refuse(504, key, headers=[(b"connection", b"close")])

    def _observe(self, exchange: Exchange) -> None:
        if not exchange.quiet:
            exchange.plan.cells.observe(exchange.method, exchange.status, exchange.seconds)
            self._log.write(exchange)

    # WebSockets -----------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> None:
        path = exchange.path
        mount = self._only or self._mount(path)
        rule = ambiguity(path, scope.get("raw_path"))
        methods = self._routes.table.match(path)
        found = lookup(methods, "WEBSOCKET") if methods is not None else None
        plan = exchange.plan = self._routes.plan_for(found, path, "WEBSOCKET")
        status, exchange.reason = 0, ""
        if rule is not None and (mount is None or mount.strict):
            status, exchange.reason = 400, f"{rule} (server.paths)"
        elif mount is None or path in self._own or (found is None and self._routes.closed):
            status, exchange.reason = 404, "no such endpoint (endpoints)"
        elif plan.rate is not None and plan.rate.wait_for(exchange.client) > 0:
            status, exchange.reason = 429, plan.keys.get("rate", "")
        elif plan.gate is not None and plan.gate.full():
            status, exchange.reason = 503, plan.keys.get("concurrency", "")
        if status or mount is None:
            exchange.status = status
            await receive()  # websocket.connect
            await refuse_websocket(send, scope.get("extensions"), status)
            self._log.write(exchange)
            return
        exchange.status = 403  # unless the application accepts
        if plan.gate is not None:
            plan.gate.running += 1

        async def sending(message: Message) -> None:
            if message["type"] == "websocket.accept":
                exchange.status = 101
                headers = [*message.get("headers", ()), (b"x-request-id", exchange.request_id.encode())]
                message = {**message, "headers": headers}
            elif message["type"] == "websocket.http.response.start":
                exchange.status = message["status"]
            await send(message)

        try:
            await mount.app(scope, receive, sending)
        except OSError:  # the server's way to say that the client has gone
            exchange.reason = "client gone"
        except Exception as error:  # named boundary: the user's application
            app_logger.error("WEBSOCKET %s raised", path, exc_info=error)
            exchange.reason = "application raised"
            raise ResponseCut from None
        finally:
            if plan.gate is not None:
                plan.gate.running -= 1
            exchange.seconds = time.perf_counter() - exchange.begun
            self._log.write(exchange)
