"""HTTP clients for the application: httpx clients that forward request id and trace, and that the host closes."""

from __future__ import annotations

import asyncio
import threading
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pywatt_host.clients.none import NoResilience, nowhere, nowhere_blocking
from pywatt_host.observability.context import current_request, outgoing_trace
from pywatt_host.observability.spans import NO_TRACER, AnyTracer, Tracer

if TYPE_CHECKING:
    import httpx

    from pywatt_host.clients.resilience.modules import BlockingResolve, Resolve
    from pywatt_host.clients.resilience.targets import Resilience

_TIMEOUT = 10.0  # seconds for each of connecting, sending, and waiting for bytes; the application may change it


class HttpClients:
    """One asynchronous and one blocking httpx client, each created when it is first used.

    All requests of the application share them. They keep no cookies, since the cookies of one user would be sent with
    the requests of the next one.
    """

    name = "http client"

    def __init__(
        self,
        auth: httpx.Auth | None = None,
        *,
        resilience: Resilience | NoResilience | None = None,
        resolve: Resolve = nowhere,
        resolve_blocking: BlockingResolve = nowhere_blocking,
        tracer: AnyTracer = NO_TRACER,
    ) -> None:
        """`auth` adds credentials to the requests of both clients. `resilience` has the policies for them. `resolve`
        and `resolve_blocking` give the addresses of module://NAME, and raise MessagingError where there is none; the
        second one is called in threads other than that of the event loop. `tracer` makes the spans of requests."""
        self._auth = auth
        self._resilience = resilience if resilience is not None else NoResilience()
        self._resolve = resolve
        self._resolve_blocking = resolve_blocking
        self._tracer = tracer if isinstance(tracer, Tracer) else None
        self._client: httpx.AsyncClient | None = None
        self._blocking: httpx.Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._closed = False
        self._making = threading.Lock()

    def client(self) -> httpx.AsyncClient:
        """The client for the host's event loop. Raises RuntimeError once the host has stopped, and on another event
        loop."""
        with self._making:
            self._refuse_when_closed()
            if self._loop is not None and _running_loop() not in (None, self._loop):
                raise RuntimeError(
                    "app_state.http belongs to the host's event loop. Use app_state.sync.http in this one"
                )
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> httpx.AsyncClient:
        kind, prepare, more = import_module("httpx").AsyncClient, _add_trace, dict[str, Any]()
        if self._tracer is not None:
            tracing = import_module("pywatt_host.clients.tracing")
            kind, prepare = partial(tracing.TracedClient, self._tracer), tracing.note
            more = {"wrap": tracing.traced(self._tracer)}

        async def prepare_async(request: httpx.Request) -> None:
            _add_request_id(request)
            prepare(request)

        mounts = self._mounts("mounts", "ModuleTransport", self._resolve, **more)
        hooks = {"request": [prepare_async]}
        client: httpx.AsyncClient = kind(auth=self._auth, event_hooks=hooks, mounts=mounts, **_settings())
        return client

    def blocking(self) -> httpx.Client:
        """The client for threads. Raises RuntimeError once the host has stopped."""
        with self._making:
            self._refuse_when_closed()
            if self._blocking is None:
                self._blocking = self._make_blocking()
            return self._blocking

    def _make_blocking(self) -> httpx.Client:
        kind, prepare, more = import_module("httpx").Client, _add_trace, dict[str, Any]()
        if self._tracer is not None:
            tracing = import_module("pywatt_host.clients.tracing")
            kind, prepare = partial(tracing.BlockingTracedClient, self._tracer), tracing.note
            more = {"wrap": tracing.traced_blocking(self._tracer)}
        mounts = self._mounts("blocking_mounts", "BlockingModuleTransport", self._resolve_blocking, **more)
        hooks = {"request": [self._refuse_on_loop, _add_request_id, prepare]}
        client: httpx.Client = kind(auth=self._auth, event_hooks=hooks, mounts=mounts, **_settings())
        return client

    def _mounts(self, function: str, modules: str, resolve: object, **more: Any) -> dict[str, Any]:
        """Transports by the URL pattern that each one is for. Each imports its module with its first request."""
        of_clients: dict[str, Any] = {}
        targets = self._resilience.clients()
        if targets:
            of_clients = getattr(import_module("pywatt_host.clients.resilience.transports"), function)(targets, **more)

        def make() -> Any:
            kind = getattr(import_module("pywatt_host.clients.resilience.modules"), modules)
            return kind(resolve, self._resilience.for_url, **more)

        return {**of_clients, "module://": _LazyTransport(make)}

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the host has stopped, and its HTTP client with it")

    def _refuse_on_loop(self, request: Any) -> None:
        if threading.get_ident() == self._thread:
            raise RuntimeError("app_state.sync.http would block the event loop here. Use `await app_state.http...`")

    @asynccontextmanager
    async def running(self, tasks: TaskGroup) -> AsyncIterator[None]:
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            yield
        finally:
            with self._making:
                self._closed = True
            try:
                if self._client is not None:
                    await self._client.aclose()
            finally:
                if self._blocking is not None:
                    self._blocking.close()


class _LazyTransport:
    """An httpx transport of either kind that is created with its first request."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None
        self._making = threading.Lock()

    def _transport(self) -> Any:
        with self._making:
            if self._made is None:
                self._made = self._make()
            return self._made

    async def handle_async_request(self, request: httpx.Request) -> Any:
        return await self._transport().handle_async_request(request)

    def handle_request(self, request: httpx.Request) -> Any:
        return self._transport().handle_request(request)

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    async def __aenter__(self) -> None:
        return

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __enter__(self) -> None:
        return

    def __exit__(self, *error: object) -> None:
        self.close()


def _settings() -> dict[str, Any]:
    cookies = import_module("http.cookiejar")
    return {
        "timeout": _TIMEOUT,
        "headers": {"user-agent": "pywatt-host"},
        "cookies": cookies.CookieJar(cookies.DefaultCookiePolicy(allowed_domains=())),
    }


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _add_trace(request: Any) -> None:
    """Add `traceparent` and `tracestate` (W3C Trace Context) of the request that is being handled, if there is one,
    where the application has not set its own."""
    headers = request.headers
    if "traceparent" not in headers and (trace := outgoing_trace()) is not None:
        headers["traceparent"], state = trace
        if state:
            headers["tracestate"] = state


def _add_request_id(request: Any) -> None:
    """Add `X-Request-ID`, where the application has not set its own."""
    current = current_request.get()
    if current is not None and current.request_id and "x-request-id" not in request.headers:
        request.headers["x-request-id"] = current.request_id.decode("latin-1")
