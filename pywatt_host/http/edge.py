"""The edge: one pass over each request, before and after the application.

On the way in: request id, trace, forwarding headers, the host's own paths, the path, the endpoint, the credential, the
limits; then the application. On the way back: status, metrics and the access log. Each request is matched once, and its
`send` is wrapped once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from pywatt_host.exceptions import HostError
from pywatt_host.http.accesslog import AccessLog, NoAccessLog
from pywatt_host.http.allowed_hosts import ORIGIN_REFUSED, AllowedOrigins, HostCheck
from pywatt_host.http.endpoints import allowed, lookup
from pywatt_host.http.exchange import Exchange, Plan, Refusal, WrappedExchange
from pywatt_host.http.explanation import Explain
from pywatt_host.http.forwarding import Forwarding
from pywatt_host.http.guard import Verdict, take_bearer
from pywatt_host.http.paths import ambiguity
from pywatt_host.http.problem import refuse_websocket
from pywatt_host.http.request_head import RequestHead
from pywatt_host.http.routes import Mount, Routes
from pywatt_host.http.server.exchange import ServerExchange
from pywatt_host.http.server.head import CHUNKED
from pywatt_host.http.spans import RequestSpans
from pywatt_host.net.limits import Gate, client_key
from pywatt_host.observability.logs import CUT, ResponseCutError
from pywatt_host.observability.metrics import NoCells
from pywatt_host.types import ASGIApp, Headers, Receive, Scope, Send

logger = logging.getLogger("pywatt.edge")
app_logger = logging.getLogger("pywatt.app")

_IN_CORS = "pywatt.cors"  # where a scope carries its exchange through the CORS middleware
_RETRY = ((b"retry-after", b"1"), (b"connection", b"close"))  # headers of requests that are cut when the host stops
_CLIENT_CLOSED = 499  # the status in the log where a client left before the response began
CLAIMS = "pywatt.claims"  # where a scope carries the claims of the request's credential
_TWO_READINGS = "The path can be read in more than one way."
_REMEMBERED = 4096  # paths and methods whose endpoint is remembered
_LONGEST_REMEMBERED = 256  # characters of such a path
_WARN_INTERVAL = 1.0  # seconds between two warnings about the same limit

Answer: TypeAlias = tuple[int, Headers, bytes]
HostPath: TypeAlias = Callable[[Scope], Awaitable[Answer | None]]


class _Pending(NamedTuple):
    """A request whose credential has yet to be verified."""

    mount: Mount


class Edge:
    """An ASGI application around all applications of a host.

    Our own server asks `accept` about each request as soon as its head is read, and tells `failed` and `left` how it
    went on. Any other server calls the edge, which then wraps `receive` and `send`.
    """

    def __init__(
        self,
        *,
        mounts: list[Mount],
        routes: Routes,
        host_paths: Mapping[str, HostPath],
        host_apps: Mapping[str, ASGIApp] = MappingProxyType({}),
        forwarding: Forwarding,
        access_log: AccessLog,
        concurrency: Gate,
        cors: Callable[[ASGIApp], ASGIApp] | None = None,
        hosts: HostCheck | None = None,
        origins: AllowedOrigins | None = None,
        added: Sequence[tuple[bytes, bytes]] = (),
        explain: Explain | None = None,
        spans: RequestSpans | None = None,
    ) -> None:
        """`host_paths` are answered by the host with GET, `host_apps` by an application of the host with any method.
        `concurrency` limits how many requests may run at the same time. `hosts` and `origins` are None where any is
        allowed. `added` are headers of every response that has none of that name, in lower case. `explain` makes the
        detail of refusals. `spans` makes the spans of requests; None where tracing is off."""
        self._mounts = sorted(mounts, key=lambda mount: len(mount.prefix), reverse=True)
        self._only = self._mounts[0] if len(mounts) == 1 and mounts[0].prefix == "/" else None
        self._table, self._closed = routes.table, routes.closed
        self._plan_for, self._unmatched = routes.plan_for, routes.unmatched
        self._ambiguous = routes.ambiguous
        self._host_paths = {**host_paths, **dict.fromkeys(host_apps, _not_answered)}
        self._host_apps = host_apps
        self._forwarding = forwarding
        self._read_head = RequestHead(forwarding).read
        self._log = access_log
        self._spans = spans
        silent = isinstance(access_log, NoAccessLog) and isinstance(routes.unmatched.cells, NoCells) and spans is None
        self._observe = None if silent else self._finished
        self._concurrency = concurrency
        self._running, self._room = concurrency.count, concurrency.room
        self.served = 0  # requests that applications have answered
        self._cors = cors(self._inside_cors) if cors is not None else None
        self._hosts, self._origins = hosts, origins
        self.added = tuple(added)
        self._explain = explain
        self._wraps = cors is not None or explain is not None or hosts is not None
        self._found: dict[tuple[str, str], tuple[Mount, Plan]] = {}  # what `_find` has found for plain paths
        self._warned: dict[str, float] = {}  # when each limit was last warned of
        self._done: list[Exchange] = []  # finished, and not yet counted and logged

    @property
    def running(self) -> int:
        """How many requests run in this process."""
        return self._running[0]

    def trusts(self, host: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        return self._forwarding.trusts(host)

    @property
    def websocket_app(self) -> ASGIApp:
        """The application that our own server passes WebSockets to."""
        return self

    # Requests of our own server -------------------------------------------------------------------------------------

    def accept(self, exchange: ServerExchange) -> ASGIApp | None:
        """The application to call for a request; None where it is answered already."""
        exchange.observe = self._observe
        if self._spans is not None:
            self._spans.begin(exchange)
        scope = exchange.scope
        if exchange.forwarded or self._wraps:
            exchange.explain = self._explain
            if exchange.forwarded:
                self._forwarding.apply(scope)
                client = scope["client"]
                if client is not None:
                    exchange.client = client[0]
            hosts = self._hosts
            # The head has one Host, which is mostly its first field.
            if hosts is not None and (exchange.forwarded or scope["headers"][0] not in hosts.known):
                refusal = hosts.refusal(scope, exchange.path)
                if refusal is not None:
                    exchange.plan = self._unmatched
                    exchange.refuse_now(refusal)
                    return None
            if self._cors is not None:
                exchange.plan = self._unmatched  # of a preflight request, which the middleware answers
                scope[_IN_CORS] = exchange
                return self._cors
        if exchange.path in self._host_paths:
            exchange.plan = self._unmatched
            return partial(self._host_path, exchange)
        target = self._decide(scope, exchange)
        if target.__class__ is Mount:
            if not exchange.special:
                return target.app
        elif target.__class__ is Refusal:
            exchange.refuse_now(target)
            return None
        return partial(self._carry_out, target, exchange)

    def unread(self, exchange: Exchange) -> None:
        """Prepare a request that cannot be read, so that it is counted and logged."""
        if exchange.plan is not self._unmatched:
            exchange.plan = self._unmatched
            exchange.observe = self._observe

    def failed(self, exchange: Exchange, error: BaseException) -> Refusal:
        """Log what the application raised; the answer in its place, for a response that has not begun."""
        if isinstance(error, asyncio.CancelledError) and CUT in error.args:
            return Refusal(503, "server.timeouts.shutdown", headers=_RETRY)
        if exchange.unavailable and isinstance(error, HostError):
            app_logger.error("%s %s: %s", exchange.method, exchange.path, error)
        else:
            app_logger.error("%s %s raised", exchange.method, exchange.path, exc_info=error)
        exchange.error_type = type(error).__qualname__
        if exchange.unavailable:
            return exchange.store_unavailable()
        return Refusal(500, "application raised", members={"request_id": exchange.request_id.decode()})

    def arrived(self, exchange: Exchange) -> None:
        """The body of a request that was `arriving` is there: from now on it counts as running."""
        exchange.arriving = False
        exchange.running = True
        self._running[0] += 1

    def left(self, exchange: Exchange) -> None:
        """The application of a request has returned, or was not called."""
        exchange.arriving = False
        if exchange.running:
            exchange.running = False
            self._running[0] -= 1
            self.served += 1
        gate = exchange.plan.gate
        if gate is not None and exchange.gated:
            exchange.gated = False
            gate.count[0] -= 1

    # Requests of other servers --------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = WrappedExchange(scope, send)
        exchange.plan, exchange.observe, exchange.explain = self._unmatched, self._observe, self._explain
        exchange.added = self.added
        self._read_head(scope, exchange)
        if self._spans is not None:
            self._spans.begin(exchange)
            if exchange.entered is not None:
                exchange.entered(exchange)
        misdirected = None
        if self._hosts is not None:
            misdirected = self._hosts.refusal(scope, exchange.path)
        if scope["type"] != "http":
            await self._websocket(scope, receive, exchange, misdirected)
            return
        try:
            if misdirected is not None:
                await exchange.refuse(misdirected)
            elif self._cors is not None:
                scope[_IN_CORS] = exchange
                await self._cors(scope, receive, exchange.send)
            elif exchange.path in self._host_paths:
                await self._host_path(exchange, scope, receive, exchange.send)
            else:
                await self._carry_out(self._decide(scope, exchange), exchange, scope, receive, exchange.send)
        except GeneratorExit:
            raise
        except BaseException as error:  # named boundary: the user's application, SystemExit and all
            await self._recover(exchange, error)
        finally:
            self.left(exchange)
            if not exchange.finished:
                exchange.status = exchange.status or _CLIENT_CLOSED
                exchange.reason = exchange.reason or "not completed"
                exchange.finish()

    async def _recover(self, exchange: WrappedExchange, error: BaseException) -> None:
        """Answer in place of an application that has raised, where its response has not begun."""
        task = asyncio.current_task()
        cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
        if cancelled and CUT not in error.args:
            raise error
        refusal = self.failed(exchange, error)
        if exchange.status == 0:
            await exchange.refuse(refusal)
        elif not exchange.finished:
            exchange.reason = refusal.reason
            raise ResponseCutError from None
        if cancelled:
            raise error

    # What both have in common ---------------------------------------------------------------------------------------

    async def _inside_cors(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle what is not a preflight request. `send` adds the CORS headers, then calls that of the exchange."""
        exchange: Exchange = scope.pop(_IN_CORS)
        exchange.outlet = send
        if exchange.path in self._host_paths:
            await self._host_path(exchange, scope, receive, send)
        else:
            await self._carry_out(self._decide(scope, exchange), exchange, scope, receive, send)

    async def _host_path(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request to a path of the host, which an application of the user's may serve as well."""
        if not await self._answered(exchange, scope, receive, send):
            await self._carry_out(self._decide(scope, exchange), exchange, scope, receive, send)

    async def _answered(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer a path of the host: health, metrics, messages. Such requests are neither logged nor counted. Returns
        False where the application is to answer."""
        exchange.quiet = True
        app = self._host_apps.get(exchange.path)
        if app is not None:
            await app(scope, receive, send)
            return True
        if exchange.method not in ("GET", "HEAD"):
            await exchange.refuse(Refusal(405, "a path of the host", headers=((b"allow", b"GET, HEAD"),)))
            return True
        answer = await self._host_paths[exchange.path](scope)
        if answer is not None:
            await exchange.answer(*answer)
        return answer is not None

    def _decide(self, scope: Scope, exchange: Exchange) -> Mount | Refusal | _Pending:
        """The application that a request goes to, or its refusal. A request that is let through counts as running from
        here on."""
        found = self._found.get((exchange.path, exchange.method)) if exchange.plain else None
        if found is not None:
            mount, exchange.plan = found
        else:
            exchange.plan = self._unmatched
            target = self._find(scope, exchange)
            if isinstance(target, Refusal):
                return target
            mount = target
            if exchange.plain and len(exchange.path) <= _LONGEST_REMEMBERED:
                if len(self._found) >= _REMEMBERED:
                    self._found.clear()
                self._found[exchange.path, exchange.method] = (mount, exchange.plan)
        plan = exchange.plan
        if plan.guard is not None:
            if plan.rate is not None and (wait := plan.rate.wait_for(_address(exchange))) > 0:
                return self._over(exchange, 429, "rate", _retry_after(wait))
            exchange.bearer = scope["type"] == "websocket" and take_bearer(scope)
            verdict = plan.guard.recall(scope)
            if verdict is None:
                if not self._concurrency.full():
                    return _Pending(mount)
                if plan.rate is not None:
                    plan.rate.give_back(_address(exchange))
                return self._over(exchange, 503, "", (b"retry-after", b"1"))
            if verdict.status:
                return self._denied(exchange, verdict)
            if plan.rate is not None:
                plan.rate.give_back(_address(exchange))
            exchange.identity = verdict
            scope[CLAIMS] = verdict.claims
        if plan.bounded or exchange.length or self._running[0] >= self._room[0] or scope["type"] != "http":
            return self._admit(scope, exchange, mount)
        self._running[0] += 1
        exchange.running = True
        mount.enter(scope)
        return mount

    def _find(self, scope: Scope, exchange: Exchange) -> Mount | Refusal:
        """The application of a request, or a refusal; sets the plan of the exchange."""
        path = exchange.path
        mount = self._only or self._mount(path)
        if not exchange.plain and (mount is None or mount.strict):
            rule = ambiguity(path, scope.get("raw_path"))
            if rule is not None:
                return Refusal(400, f"{rule} (server.paths)", _TWO_READINGS)
        methods = self._table.match(path)
        plan = None
        if methods is not None:
            plan = methods.get(exchange.method) or lookup(methods, exchange.method)
        if plan is None:
            if self._closed:
                return _no_endpoint(exchange, methods)
            if self._ambiguous is not None and self._ambiguous.method_is_ambiguous(
                path, exchange.method, methods or {}
            ):
                return Refusal(405, "no such method here (endpoints)")
            if methods:
                plan = next(iter(methods.values()))  # the application decides about the method
        if self._plan_for is not None:
            plan = self._plan_for(plan, path, exchange.method)
        exchange.plan = plan = plan or self._unmatched
        if mount is None:
            return Refusal(404, "no application under this path")
        if self._ambiguous is not None and self._ambiguous.path_is_ambiguous(path, exchange.method, plan):
            return Refusal(400, "another endpoint's path in other words (auth)", _TWO_READINGS)
        return mount

    async def _examined(self, pending: _Pending, scope: Scope, exchange: Exchange) -> Mount | Refusal:
        """Verify the credential of a request, and decide."""
        guard = exchange.plan.guard
        assert guard is not None
        verdict = await guard.examine(scope)
        if verdict.status:
            return self._denied(exchange, verdict)
        if exchange.plan.rate is not None:
            exchange.plan.rate.give_back(_address(exchange))
        exchange.identity = verdict
        scope[CLAIMS] = verdict.claims
        return self._admit(scope, exchange, pending.mount)

    def _denied(self, exchange: Exchange, verdict: Verdict) -> Refusal:
        """A refused request has counted against the rate limit of the client's address, before its credential was
        looked at. That limits guesses, also those that are verified at the same time. The request does not count if
        its credential could not be verified."""
        if verdict.status == 503 and exchange.plan.rate is not None:
            exchange.plan.rate.give_back(_address(exchange))
        exchange.identity = verdict
        return Refusal(verdict.status, verdict.reason, headers=verdict.headers)

    def _admit(self, scope: Scope, exchange: Exchange, mount: Mount) -> Mount | Refusal:
        """The application where the request is within all limits, else a refusal."""
        plan = exchange.plan
        if plan.rate is not None:
            wait = plan.rate.wait_for(f"={exchange.subject}" if exchange.subject else _address(exchange))
            if wait > 0:
                return self._over(exchange, 429, "rate", _retry_after(wait))
        if exchange.length:
            if plan.body is not None and exchange.length > plan.body:
                return self._over(exchange, 413, "body", (b"connection", b"close"))
            exchange.special = exchange.length == CHUNKED
        if plan.timeout is not None:
            exchange.special = True
        if plan.gate is not None and plan.gate.full():
            return self._over(exchange, 503, "concurrency", (b"retry-after", b"1"))
        if exchange.method != "WEBSOCKET":  # WebSockets mostly idle, and do not count
            if self._concurrency.full():
                return self._over(exchange, 503, "", (b"retry-after", b"1"))
            if exchange.awaits_body:
                exchange.arriving = True  # a client that sends slowly must not take the place of others
            else:
                exchange.running = True
                self._running[0] += 1
        if plan.gate is not None:
            plan.gate.count[0] += 1
            exchange.gated = True
        mount.enter(scope)
        return mount

    def _mount(self, path: str) -> Mount | None:
        for mount in self._mounts:
            if mount.covers(path):
                return mount
        return None

    def _over(self, exchange: Exchange, status: int, limit: str, header: tuple[bytes, bytes]) -> Refusal:
        """The refusal of a request over a limit. Logs a warning with the manifest key, at most one a second."""
        key = exchange.plan.keys.get(limit, "server.limits.concurrency")
        now = time.monotonic()
        if now - self._warned.get(key, -math.inf) >= _WARN_INTERVAL:
            self._warned[key] = now
            logger.warning(
                "%d for %s %s: over %s", status, exchange.method, exchange.plan.route, key, extra={"key": key}
            )
        return Refusal(status, key, headers=(header,))

    async def _carry_out(
        self, target: Mount | Refusal | _Pending, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Refuse the request, or call the application within the limits of the plan."""
        if isinstance(target, _Pending):
            target = await self._examined(target, scope, exchange)
        if isinstance(target, Refusal):
            await exchange.refuse(target)
            return
        plan = exchange.plan
        if plan.body is not None:
            receive = exchange.bounded(receive, plan.body)
        if plan.timeout is None:
            await target.app(scope, receive, send)
            return
        deadline = asyncio.timeout(plan.timeout)  # for the response to start; else the application is cancelled
        try:
            async with deadline as exchange.deadline:
                await target.app(scope, receive, send)
            return
        except TimeoutError:
            if not deadline.expired():
                raise
        finally:
            exchange.deadline = None
        await exchange.refuse(self._over(exchange, 504, "timeout", (b"connection", b"close")))

    def _finished(self, exchange: Exchange) -> None:
        """Count and log an exchange at the end of the event loop's turn, together with others, which is cheaper."""
        if exchange.quiet:
            return
        if not self._done:
            asyncio.get_running_loop().call_soon(self.report)
        self._done.append(exchange)

    def report(self) -> None:
        """Count and log the exchanges that have finished."""
        done, self._done = self._done, []
        if self._spans is not None:
            self._spans.record(done)
        else:
            for exchange in done:
                if exchange.method != "WEBSOCKET":
                    exchange.plan.cells.observe(exchange.method, exchange.status, exchange.seconds)
        self._log.write(done)

    async def _websocket(
        self, scope: Scope, receive: Receive, exchange: WrappedExchange, misdirected: Refusal | None
    ) -> None:
        """Handle a WebSocket. It is logged when it ends, and is not in the histogram of request durations."""
        try:
            target: Mount | Refusal | _Pending = Refusal(404, "a path of the host")
            if misdirected is not None:
                target = misdirected
            elif self._origins is not None and not self._origins.allow(scope["headers"]):
                target = Refusal(403, ORIGIN_REFUSED)
            elif exchange.path not in self._host_paths:
                target = self._decide(scope, exchange)
            if isinstance(target, _Pending):
                target = await self._examined(target, scope, exchange)
            if isinstance(target, Refusal):
                await receive()  # websocket.connect
                exchange.reason = target.reason
                detail = self._explain(exchange, target.status, target.reason) if self._explain is not None else ""
                await refuse_websocket(
                    exchange.send_websocket,
                    scope.get("extensions"),
                    target.status,
                    detail or target.detail,
                    target.headers,
                )
                exchange.status = target.status
                return
            await target.app(scope, receive, exchange.send_websocket)
            if not exchange.status:
                exchange.status = 500
                exchange.reason = exchange.reason or "returned without an answer"
        except GeneratorExit:
            raise
        except BaseException as error:  # named boundary: the user's application, SystemExit and all
            self._websocket_failed(exchange, error)
        finally:
            self.left(exchange)
            exchange.finish()

    def _websocket_failed(self, exchange: WrappedExchange, error: BaseException) -> None:
        """Log why a WebSocket has ended with an exception. Raises where the server is to tell the client."""
        if exchange.gone:
            exchange.status = exchange.status or _CLIENT_CLOSED
            exchange.reason = "client gone"
            return
        if isinstance(error, asyncio.CancelledError):
            task = asyncio.current_task()
            if CUT in error.args or (task is not None and task.cancelling() > 0):
                exchange.reason = exchange.reason or "not completed"
                exchange.status = exchange.status or 500
                raise error
        app_logger.error("WEBSOCKET %s raised", exchange.path, exc_info=error)
        exchange.error_type = type(error).__qualname__
        exchange.reason = "application raised"
        exchange.status = exchange.status or 500
        raise ResponseCutError from None


async def _not_answered(scope: Scope) -> Answer | None:
    """Stands for a path that an application of the host answers."""
    return None


def _address(exchange: Exchange) -> str:
    """The subject of a rate limit that stands for the client's address."""
    return f"@{client_key(exchange.client)}"


def _retry_after(wait: float) -> tuple[bytes, bytes]:
    return b"retry-after", str(math.ceil(wait)).encode()


def _no_endpoint(exchange: Exchange, methods: dict[str, Plan] | None) -> Refusal:
    """404 for a path that is not declared, 405 for a method that is not declared (404 for a WebSocket)."""
    if methods is None or exchange.method == "WEBSOCKET":
        return Refusal(404, "no such endpoint (endpoints)")
    exchange.plan = next(iter(methods.values()))
    return Refusal(405, "no such method here (endpoints)", headers=((b"allow", allowed(methods).encode()),))
