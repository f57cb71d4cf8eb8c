"""One HTTP listener in front of all modules: `/{module}/...` and the paths that they announce, streamed both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import uuid4

from pywatt_host.exceptions import HostError, MessagingError, TlsError
from pywatt_host.http.allowed_hosts import AllowedHosts, AllowedOrigins, HostCheck
from pywatt_host.http.paths import ambiguity
from pywatt_host.http.problem import refuse_websocket, send_problem
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.observability.context import current_request
from pywatt_host.observability.logs import ResponseCutError
from pywatt_host.observability.spans import AnyTracer, NoTracer
from pywatt_host.orchestrator.gateway_log import GatewayLog
from pywatt_host.orchestrator.gateway_spans import GatewaySpans, with_trace
from pywatt_host.orchestrator.headers import (
    BODILESS,
    as_message,
    framed,
    names_one_host,
    of_message,
    request_headers,
    response_headers,
    says_close,
)
from pywatt_host.orchestrator.launch import hosts_of
from pywatt_host.orchestrator.module import Module
from pywatt_host.orchestrator.paths import NoPlace, Paths, Place
from pywatt_host.orchestrator.replica import Replica
from pywatt_host.orchestrator.tunnel import tunnel
from pywatt_host.orchestrator.upstream import FINAL, Address, BrokenError, UpstreamConnection, UpstreamPool
from pywatt_host.protocol.messages import HttpRequest, HttpResponse
from pywatt_host.types import Receive, Scope, Send

logger = logging.getLogger("pywatt.gateway")

_RETRY_AFTER = [(b"retry-after", b"1")]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_PATHS = frozenset({"/health", "/livez", "/readyz"})
_HOSTS_KEY = "gateway.allowed_hosts"
_ORIGIN = "the Origin of a WebSocket"
_FOREIGN_PAGE = "A page of another site may not open a WebSocket here."
_MISDIRECTED = f"The gateway does not answer to this Host: add its name to {_HOSTS_KEY} in wattson.yaml."
# Bytes of a frame for each byte of a body (PROTOCOL: byte numbers), and for the rest of the message.
_FRAME_SHARE, _FRAME_REST = 4, 64 * 1024


class Gateway:
    """An ASGI application. Replicas take requests in turn; a replica that refuses the connection is skipped, since
    nothing was sent yet. A module without a listener is asked over its channel, with one message each way."""

    def __init__(
        self,
        modules: Mapping[str, Module],
        workspace: Workspace,
        own: Iterable[str] = (),
        reload_refused: Callable[[], bool] = lambda: False,
        check_tls: Callable[[], None] | None = None,
        tracer: AnyTracer | None = None,
    ) -> None:
        """`own` are the addresses of the gateway itself: a request to a module that announces one would never end.
        `reload_refused` says whether the last reload was refused, and `check_tls` raises TlsError if a certificate
        cannot be used: the gateway is degraded then. `tracer` makes a span of each request, and of each request to a
        module."""
        self._check_tls = check_tls
        self._reload_refused = reload_refused
        self._modules = modules
        self._own = frozenset(Address.parse(address) for address in own)
        self._paths = Paths(modules)
        self._pool = UpstreamPool()
        self._timeout = workspace.timeouts.request
        self.log = GatewayLog(workspace.logging.access)
        hosts = AllowedHosts(hosts_of(workspace), loopback=True)
        self._hosts = HostCheck(hosts, _OWN_PATHS, key=_HOSTS_KEY)
        self._origins = AllowedOrigins(hosts)
        self._spans = GatewaySpans(tracer or NoTracer())
        self._max_body = max(0, workspace.limits.frame // _FRAME_SHARE - _FRAME_REST)

    async def close(self) -> None:
        self._pool.close()

    def gone(self, replica: Replica) -> None:
        """Close the idle connections to a process that has ended."""
        address = self._address(replica)
        if address is not None:
            self._pool.forget(address)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in _OWN_PATHS:
            await self._health(scope, send)
            return
        if self._hosts.refusal(scope, scope["path"]) is not None:
            await self._refuse(scope, receive, send, 421, _MISDIRECTED, reason=_HOSTS_KEY)
            return
        found = self._find(scope)
        route = found.route if isinstance(found, Place) else ""
        with self._spans.of_client(scope, send, route) as told:
            await self._answer(found, scope, receive, told)

    async def _answer(self, found: Place | NoPlace, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(found, NoPlace):
            headers = [(b"allow", found.allow.encode())] if found.allow else []
            await self._refuse(scope, receive, send, found.status, headers=headers)
        elif scope["type"] == "websocket":
            # A module with a manifest checks the origin itself, since `server.cors` may allow it.
            if found.module.declared.manifest is None and not self._origins.allow(scope["headers"]):
                await self._refuse(scope, receive, send, 403, _FOREIGN_PAGE, reason=_ORIGIN)
                return
            await self._websocket(found, scope, receive, send)
        else:
            await self._request(found, scope, receive, send)

    def _find(self, scope: Scope) -> Place | NoPlace:
        path, raw = scope["path"], scope.get("raw_path")
        if ambiguity(path, raw) is not None or not names_one_host(scope["headers"]):
            return NoPlace(400)
        method = "WEBSOCKET" if scope["type"] == "websocket" else scope["method"]
        preflight = method == "OPTIONS" and any(
            name == b"access-control-request-method" for name, _ in scope["headers"]
        )
        return self._paths.find(path, raw if raw is not None else path.encode(), method, preflight)

    async def _health(self, scope: Scope, send: Send) -> None:
        if scope["path"] == "/livez":
            await _answer_json(send, 200, b'{"status":"healthy"}')
            return
        checks = {id: _health_of(module) for id, module in self._modules.items()}
        healthy = all(status == "healthy" for status in checks.values())
        members = ",".join(f'"{id}":{{"status":"{status}"}}' for id, status in checks.items())
        refused, tls_works = self._reload_refused(), self._tls_works()
        status = "unhealthy" if not healthy else "degraded" if refused or not tls_works else "healthy"
        more = ',"reload":{"status":"refused"}' if refused else ""
        more += "" if tls_works else ',"tls":{"status":"failing"}'
        body = f'{{"status":"{status}","checks":{{{members}}}{more}}}'
        await _answer_json(send, 200 if healthy else 503, body.encode())

    def _tls_works(self) -> bool:
        """Whether the certificate of the gateway can be used, also the one that its files have now."""
        if self._check_tls is None:
            return True
        try:
            self._check_tls()
        except TlsError:
            return False
        return True

    # HTTP -----------------------------------------------------------------------------------------------------------

    async def _request(self, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        target = place.raw + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers, body = framed(request_headers(scope, place.prefix), scope)
        tried: list[Replica] = []
        while (replica := _next(place.module, tried)) is not None:
            tried.append(replica)
            with replica.handling():
                if await self._handled(replica, scope, target, (headers, body), receive, send):
                    return
        for replica in sorted(tried, key=lambda each: not each.in_use):
            if not replica.listener_answered and replica.connection() is not None:
                with replica.handling(), self._spans.to_module(scope, target, replica, send) as (span, told):
                    await self._unary(replica, scope, target, with_trace(headers, span), receive, told)
                return
        await self._refuse(scope, receive, send, 503, "The module is not running.", _RETRY_AFTER)

    async def _handled(
        self,
        replica: Replica,
        scope: Scope,
        target: bytes,
        request: tuple[list[tuple[bytes, bytes]], bool],
        receive: Receive,
        send: Send,
    ) -> bool:
        """Whether a replica took the connection: then the request is answered."""
        fresh = scope["method"] not in _SAFE
        while (connection := await self._connect(replica, fresh=fresh)) is not None:
            try:
                with self._spans.to_module(scope, target, replica, send) as (span, told):
                    traced = (with_trace(request[0], span), request[1])
                    await self._pass_on(connection, replica.label, scope, target, traced, receive, told)
            except BrokenError as error:
                if error.silent and not fresh and not request[1]:
                    fresh = True  # the module closed an idle connection just then (RFC 9112, section 9.3.1)
                    continue
                logger.warning("%s %s: %s: %s", scope["method"], scope["path"], replica.label, error)
                await self._refuse(scope, receive, send, 502, "The module did not answer as it should.")
            return True
        return False

    def _address(self, replica: Replica) -> Address | None:
        address = Address.parse(replica.announce.listen) if replica.announce is not None else None
        return None if address in self._own else address

    async def _connect(self, replica: Replica, *, fresh: bool) -> UpstreamConnection | None:
        """Connect to a replica; None where that fails."""
        address = self._address(replica)
        if address is None:
            return None
        try:
            connection = await self._pool.take(address, fresh=fresh)
        except (OSError, TimeoutError) as error:
            logger.debug("%s accepts no connection: %s", replica.label, error)
            return None
        replica.listener_answered = True
        return connection

    async def _pass_on(
        self,
        connection: UpstreamConnection,
        label: str,
        scope: Scope,
        target: bytes,
        request: tuple[list[tuple[bytes, bytes]], bool],
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass a request and its response on. Raises BrokenError where the connection broke before the response,
        ResponseCutError where it broke in the middle of it."""
        headers, body = request
        begun = False
        feeding: asyncio.Task[None] | None = None
        try:
            connection.begin(scope["method"], target, headers, body=body)
            feeding = asyncio.get_running_loop().create_task(_feed(connection, receive, body))
            status, given = await connection.head()
            begun = True
            passed = response_headers(status, given)
            if not connection.request_sent and says_close(given):
                passed.append((b"connection", b"close"))  # the module reads no more of the body
            await send({"type": "http.response.start", "status": status, "headers": passed})
            async for piece in connection.body():
                if feeding.done() and _is_lost():
                    raise BrokenError("the client has left")
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except BrokenError as error:
            connection.close()
            if feeding is not None and feeding.done():
                return  # the client has left
            if not begun:
                raise
            logger.warning("%s %s: %s: %s", scope["method"], scope["path"], label, error)
            raise ResponseCutError from error
        except BaseException:
            connection.close()
            raise
        else:
            self._pool.give_back(connection)
        finally:
            if feeding is not None:
                feeding.cancel()

    # Over the channel -----------------------------------------------------------------------------------------------

    async def _unary(
        self,
        replica: Replica,
        scope: Scope,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        receive: Receive,
        send: Send,
    ) -> None:
        body = await _read_body(receive, self._max_body)
        if body is None:
            await self._refuse(scope, receive, send, 413, f"The body is longer than {self._max_body} bytes.")
            return
        connection = replica.connection()
        headers = [header for header in headers if header[0] != b"transfer-encoding"]
        message = HttpRequest(
            str(uuid4()), scope["method"], target.decode("latin-1"), as_message(headers), body or None
        )
        try:
            if connection is None:
                raise MessagingError("unavailable", "it is not running", replica.label)
            response: HttpResponse = await connection.session.request(message, self._timeout)
            if response.status_code not in FINAL:
                raise MessagingError("invalid", f"its status is {response.status_code}", replica.label)
        except HostError as error:
            late = isinstance(error, MessagingError) and error.code == "timeout"
            logger.warning("%s %s: %s: %s", scope["method"], scope["path"], replica.label, error)
            await self._refuse(scope, receive, send, 504 if late else 502, "The module did not answer.")
            return
        content = response.body or b""
        bodiless = scope["method"] == "HEAD" or response.status_code in BODILESS
        length = [] if response.status_code in BODILESS else [(b"content-length", str(len(content)).encode())]
        given = [*of_message(response.headers), *length]
        await send({"type": "http.response.start", "status": response.status_code, "headers": given})
        await send({"type": "http.response.body", "body": b"" if bodiless else content})

    # WebSockets -----------------------------------------------------------------------------------------------------

    async def _websocket(self, place: Place, scope: Scope, receive: Receive, send: Send) -> None:
        target = place.raw + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        headers = request_headers(scope, place.prefix)
        tried: list[Replica] = []
        while (replica := _next(place.module, tried)) is not None:
            tried.append(replica)
            address = self._address(replica)
            if address is None:
                continue
            try:
                tls = self._pool.context() if address.secure else None
                with self._spans.to_module(scope, target, replica, send) as (span, told):
                    await tunnel(
                        address, target.decode("latin-1"), with_trace(headers, span), scope, receive, told, tls
                    )
            except OSError as error:
                logger.debug("%s accepts no connection: %s", replica.label, error)
                continue
            except BrokenError as error:
                logger.warning("WEBSOCKET %s: %s: %s", scope["path"], replica.label, error)
                await self._refuse(scope, receive, send, 502)
            return
        await self._refuse(scope, receive, send, 503)

    async def _refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: int,
        detail: str = "",
        headers: Sequence[tuple[bytes, bytes]] = (),
        reason: str = "",
    ) -> None:
        """Answer in place of a module, and log the request: modules log those that reach them."""
        self.log.refused(scope, status, reason)
        if scope["type"] == "websocket":
            await receive()
            await refuse_websocket(send, scope.get("extensions"), status, detail)
        else:
            await send_problem(send, status, detail, headers)


def _next(module: Module, tried: Sequence[Replica]) -> Replica | None:
    """The next replica that takes traffic and was not tried yet. It is looked for each time: a reload may have replaced
    a replica since the one before was tried."""
    return next((replica for replica in module.candidates() if replica not in tried), None)


def _health_of(module: Module) -> str:
    if any(replica.healthy for replica in module.replicas):
        return "healthy"
    return "unhealthy" if any(replica.running for replica in module.replicas) else module.replicas[0].state


async def _feed(connection: UpstreamConnection, receive: Receive, body: bool) -> None:
    """Send the request's body to the module, then tell it when the client leaves. A client that has sent its whole
    request may have ended its own side only, and wait for the response."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            if connection.request_sent and not _is_lost():
                connection.end_request()
            else:
                connection.close()
            return
        if body:
            body = message.get("more_body", False)
            try:
                await connection.send(message.get("body", b""), more=body)
            except BrokenError:
                body = False  # the module may have answered without reading all of it


def _is_lost() -> bool:
    """Whether nothing that is sent reaches the client of the current request."""
    return getattr(current_request.get(), "lost", True)


async def _read_body(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None where it is longer than `limit` bytes."""
    pieces: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        piece = message.get("body", b"")
        length += len(piece)
        if length > limit:
            return None
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _answer_json(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
