"""Clients of a module that runs in this process: httpx without a socket, and what only a test may ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from pywatt_host.app.state import AppState
from pywatt_host.runtime.host import Host
from pywatt_host.testing.exchange import ClientExchange
from pywatt_host.testing.running import Running
from pywatt_host.testing.started import Started
from pywatt_host.testing.websocket import WebSocket

R = TypeVar("R")

BASE_URL = "http://module.test"
_HTTP = {"http_version": b"HTTP/1.1"}
_WHOLE = "pywatt.whole"  # among the extensions of a request: its response is read to the end
_TICKS = 3  # turns of the loop after which everything that has finished is logged


class _Patience:
    """How long to wait for the pieces of a body: `timeout` seconds for each, and for all of them together where the
    response is read to its end, which a stream without one never comes to."""

    def __init__(self, request: httpx.Request, timeout: float) -> None:
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout if _WHOLE in request.extensions else None

    def check(self) -> None:
        """Raises httpx.ReadTimeout."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            message = f"the response had no end within {self.timeout:g}s; read one that has none with client.stream()"
            raise httpx.ReadTimeout(message)


class _Body(httpx.SyncByteStream):
    def __init__(self, exchange: ClientExchange, running: Running[Started], patience: _Patience) -> None:
        self._exchange = exchange
        self._running = running
        self._patience = patience

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (piece := self._running.run(self._exchange.piece(), self._patience.timeout)) is not None:
                self._patience.check()
                yield piece
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from None

    def close(self) -> None:
        self._running.call(self._exchange.leave)


class _Transport(httpx.BaseTransport):
    def __init__(self, running: Running[Started], module: Started, timeout: float) -> None:
        self._running = running
        self._module = module
        self._timeout = timeout

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        begin = self._module.exchange(request.url, request.method, request.headers.raw, list(request.stream) or [b""])
        exchange = self._running.run(begin, self._timeout)
        wanted = request.extensions.get("timeout", {}).get("read")
        timeout = self._timeout if wanted is None else wanted
        try:
            status, headers = self._running.run(exchange.head(), timeout)
        except BaseException as error:
            self._running.call(exchange.leave)
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout(str(error), request=request) from None
            raise
        body = _Body(exchange, self._running, _Patience(request, timeout))
        return httpx.Response(status, headers=headers, stream=body, extensions=_HTTP)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, exchange: ClientExchange, running: Running[Started], patience: _Patience) -> None:
        self._exchange = exchange
        self._running = running
        self._patience = patience

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (piece := await _in_time(self._exchange.piece(), self._running, self._patience.timeout)) is not None:
            self._patience.check()
            yield piece

    async def aclose(self) -> None:
        self._exchange.leave()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self, running: Running[Started], module: Started, timeout: float) -> None:
        self._running = running
        self._module = module
        self._timeout = timeout

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        pieces = [piece async for piece in request.stream] or [b""]
        exchange = await self._module.exchange(request.url, request.method, request.headers.raw, pieces)
        wanted = request.extensions.get("timeout", {}).get("read")
        timeout = self._timeout if wanted is None else wanted
        try:
            status, headers = await _in_time(exchange.head(), self._running, timeout)
        except BaseException:
            exchange.leave()
            raise
        body = _AsyncBody(exchange, self._running, _Patience(request, timeout))
        return httpx.Response(status, headers=headers, stream=body, extensions=_HTTP)


async def _in_time(coroutine: Coroutine[Any, Any, R], running: Running[Started], timeout: float) -> R:
    try:
        async with asyncio.timeout(timeout):
            return await coroutine
    except TimeoutError:
        raise httpx.ReadTimeout(str(running.too_late("had no answer", timeout))) from None


class _Module:
    """What a test sees of the module behind a client."""

    _module: Started

    @property
    def host(self) -> Host:
        """The running host."""
        return self._module.host

    @property
    def state(self) -> AppState:
        """The module's AppState. What is async in it belongs to the module's event loop."""
        return self._module.host.state


class ModuleClient(_Module, httpx.Client):
    """An `httpx.Client` of the module: every method of that, without a socket, redirects not followed. Each wait is
    bounded by the `timeout` of the request, else of the module; but for `stream`, so is the whole response."""

    def __init__(self, running: Running[Started], module: Started, timeout: float) -> None:
        super().__init__(
            transport=_Transport(running, module, timeout), base_url=BASE_URL, timeout=timeout, trust_env=False
        )
        self._running = running
        self._module = module
        self._patience = timeout

    def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """As httpx has it."""
        if not stream:
            request.extensions = {**request.extensions, _WHOLE: True}
        return super().send(request, stream=stream, **more)

    def websocket(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float | None = None,
    ) -> WebSocket:
        """An open WebSocket, to be used in `with`. Raises WebSocketRefusedError with the status of the refusal."""
        patience = self._patience if timeout is None else timeout
        all_headers = httpx.Headers(self.headers)
        all_headers.update(headers)
        for name in ("accept-encoding", "accept", "connection"):
            all_headers.pop(name, None)
        all_headers["host"] = self.base_url.netloc.decode("ascii")
        if subprotocols:
            all_headers["sec-websocket-protocol"] = ", ".join(subprotocols)
        url = self.base_url.join(path).copy_with(scheme="ws")
        begin = self._module.websocket(url, all_headers.raw, subprotocols)
        session = self._running.run(begin, patience)
        return WebSocket(session, self._running.run, patience)

    def with_claims(self, *, scheme: str | None = None, **claims: Any) -> ModuleClient:
        """A client of the same module whose requests and WebSockets carry a token that says this, for a scheme of type
        jwt or oidc (left out: the first), over `sub="test"` and what the scheme asks for; None takes a claim out.
        Raises ValueError where no scheme takes tokens."""
        token = self.run(self._module.token(scheme, claims))
        client = ModuleClient(self._running, self._module, self._patience)
        client.headers = self.headers.copy()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    @property
    def logs(self) -> list[dict[str, Any]]:
        """What the module has logged so far, access log included: one dict a line, as in JSON, secrets masked."""
        if self._running.failure is None:
            self._running.run(_turns(), self._patience)
        return self._module.recipe.logs.records()

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = None) -> R:
        """Run a coroutine on the module's event loop and wait for it: `client.run(client.state.get_secret("A"))`."""
        return self._running.run(coroutine, self._patience if timeout is None else timeout)

    def deliver(self, type: str, message: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Hand a message to the handler for `type` (`@on_message`) and give its reply. Raises MessagingError where
        there is none, or it fails."""
        patience = self._patience if timeout is None else timeout
        handlers = self._module.host.channels.messages.handlers
        return self.run(handlers.deliver(type, message or {}, patience), patience + 1)

    def rotate(self, **secrets: str) -> None:
        """Rotate secrets that were given at the start, all of them at once, as the orchestrator does. Raises
        SecretError where a hook refuses, or `secrets.rotate` is off; the old values stay in use then."""
        self.run(self._module.rotate(secrets))


class AsyncModuleClient(_Module, httpx.AsyncClient):
    """An `httpx.AsyncClient` of a module on the test's own event loop."""

    def __init__(self, running: Running[Started], module: Started, timeout: float) -> None:
        super().__init__(
            transport=_AsyncTransport(running, module, timeout), base_url=BASE_URL, timeout=timeout, trust_env=False
        )
        self._running = running
        self._module = module
        self._patience = timeout

    async def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """As httpx has it."""
        if not stream:
            request.extensions = {**request.extensions, _WHOLE: True}
        return await super().send(request, stream=stream, **more)

    async def with_claims(self, *, scheme: str | None = None, **claims: Any) -> AsyncModuleClient:
        """As ModuleClient.with_claims."""
        token = await self._module.token(scheme, claims)
        client = AsyncModuleClient(self._running, self._module, self._patience)
        client.headers = self.headers.copy()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    @property
    def logs(self) -> list[dict[str, Any]]:
        """What the module has logged so far; a request is in it a turn of the loop after its response."""
        return self._module.recipe.logs.records()

    async def deliver(self, type: str, message: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """As ModuleClient.deliver."""
        patience = self._patience if timeout is None else timeout
        return await self._module.host.channels.messages.handlers.deliver(type, message or {}, patience)

    async def rotate(self, **secrets: str) -> None:
        """As ModuleClient.rotate."""
        await self._module.rotate(secrets)


async def _turns() -> None:
    for _ in range(_TICKS):
        await asyncio.sleep(0)
