"""The httpx clients of a module that runs in the test's process, without a socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import httpx

from pywatt_host.app.state import AppState
from pywatt_host.net.client_certificates import ClientCertificate
from pywatt_host.runtime.host import Host
from pywatt_host.testing.certificates import client_certificate
from pywatt_host.testing.exchange import ClientExchange
from pywatt_host.testing.running import BackgroundContext
from pywatt_host.testing.started_module import HOST, StartedModule
from pywatt_host.testing.websocket import WebSocket

R = TypeVar("R")

BASE_URL = f"http://{HOST}"
SECURE_URL = f"https://{HOST}"  # of clients with a certificate
_HTTP = {"http_version": b"HTTP/1.1"}
_READ_WHOLE = "pywatt.read_whole"  # the extension of a request whose response is read to its end
_LOOP_TURNS = 3  # after these turns of the event loop, everything that has finished is in the log


class _BodyTimeout:
    """How long to wait for a body: `timeout` seconds for each chunk, and for the whole body if the response is read to
    its end, since a stream may never end."""

    def __init__(self, request: httpx.Request, timeout: float) -> None:
        self.timeout = timeout
        self._deadline = time.monotonic() + timeout if _READ_WHOLE in request.extensions else None

    def check(self) -> None:
        """Raises httpx.ReadTimeout."""
        if self._deadline is not None and time.monotonic() >= self._deadline:
            message = (
                f"the response did not end within {self.timeout:g} s; read an endless response with client.stream()"
            )
            raise httpx.ReadTimeout(message)


class _Body(httpx.SyncByteStream):
    def __init__(
        self, exchange: ClientExchange, running: BackgroundContext[StartedModule], timeout: _BodyTimeout
    ) -> None:
        self._exchange = exchange
        self._running = running
        self._timeout = timeout

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (chunk := self._running.run(self._exchange.next_chunk(), self._timeout.timeout)) is not None:
                self._timeout.check()
                yield chunk
        except TimeoutError as error:
            raise httpx.ReadTimeout(str(error)) from None

    def close(self) -> None:
        self._running.call(self._exchange.disconnect)


class _Transport(httpx.BaseTransport):
    def __init__(
        self,
        running: BackgroundContext[StartedModule],
        module: StartedModule,
        timeout: float,
        certificate: ClientCertificate | None,
    ) -> None:
        self._certificate = certificate
        self._running = running
        self._module = module
        self._timeout = timeout

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        chunks = list(request.stream) or [b""]
        begin = self._module.exchange(
            request.url, request.method, request.headers.raw, chunks, certificate=self._certificate
        )
        exchange = self._running.run(begin, self._timeout)
        wanted = request.extensions.get("timeout", {}).get("read")
        timeout = self._timeout if wanted is None else wanted
        try:
            status, headers = self._running.run(exchange.head(), timeout)
        except BaseException as error:
            self._running.call(exchange.disconnect)
            if isinstance(error, TimeoutError):
                raise httpx.ReadTimeout(str(error), request=request) from None
            raise
        body = _Body(exchange, self._running, _BodyTimeout(request, timeout))
        return httpx.Response(status, headers=headers, stream=body, extensions=_HTTP)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(
        self, exchange: ClientExchange, running: BackgroundContext[StartedModule], timeout: _BodyTimeout
    ) -> None:
        self._exchange = exchange
        self._running = running
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await _in_time(self._exchange.next_chunk(), self._running, self._timeout.timeout)) is not None:
            self._timeout.check()
            yield chunk

    async def aclose(self) -> None:
        self._exchange.disconnect()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(
        self,
        running: BackgroundContext[StartedModule],
        module: StartedModule,
        timeout: float,
        certificate: ClientCertificate | None,
    ) -> None:
        self._certificate = certificate
        self._running = running
        self._module = module
        self._timeout = timeout

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        chunks = [chunk async for chunk in request.stream] or [b""]
        exchange = await self._module.exchange(
            request.url, request.method, request.headers.raw, chunks, certificate=self._certificate
        )
        wanted = request.extensions.get("timeout", {}).get("read")
        timeout = self._timeout if wanted is None else wanted
        try:
            status, headers = await _in_time(exchange.head(), self._running, timeout)
        except BaseException:
            exchange.disconnect()
            raise
        body = _AsyncBody(exchange, self._running, _BodyTimeout(request, timeout))
        return httpx.Response(status, headers=headers, stream=body, extensions=_HTTP)


async def _in_time(coroutine: Coroutine[Any, Any, R], running: BackgroundContext[StartedModule], timeout: float) -> R:
    try:
        async with asyncio.timeout(timeout):
            return await coroutine
    except TimeoutError:
        raise httpx.ReadTimeout(str(running.timeout_error("did not answer", timeout))) from None


class _ModuleAccess:
    """The host and the state of the module behind a client."""

    _module: StartedModule

    @property
    def host(self) -> Host:
        """The running host of the module."""
        return self._module.host

    @property
    def state(self) -> AppState:
        """The AppState of the module. Run its async methods on the module's event loop, with `run`."""
        return self._module.host.state


class ModuleClient(_ModuleAccess, httpx.Client):
    """An `httpx.Client` for one module, without a socket. It does not follow redirects.

    A wait takes as long as the read timeout of the request or else the `timeout` of `pywatt_module`, in seconds. Except
    with `stream`, this also limits the time for the whole response. A wait that takes too long raises
    httpx.ReadTimeout.

        client = pywatt_module("pywatt.yaml")
        assert client.post("/users", json={"name": "Ada"}).status_code == 201
        assert client.logs[-1]["status"] == 201
    """

    def __init__(
        self,
        running: BackgroundContext[StartedModule],
        module: StartedModule,
        timeout: float,
        certificate: ClientCertificate | None = None,
    ) -> None:
        super().__init__(
            transport=_Transport(running, module, timeout, certificate),
            base_url=BASE_URL if certificate is None else SECURE_URL,
            timeout=timeout,
            trust_env=False,
        )
        self._certificate = certificate
        self._running = running
        self._module = module
        self._patience = timeout

    def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """Send a request, as `send` of the httpx client does."""
        if not stream:
            request.extensions = {**request.extensions, _READ_WHOLE: True}
        return super().send(request, stream=stream, **more)

    def websocket(
        self,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        subprotocols: Sequence[str] = (),
        timeout: float | None = None,
    ) -> WebSocket:
        """Open a WebSocket. Use it in a `with` block, which closes it. `timeout` is the longest time that each wait may
        take, in seconds; the default is that of the module. Raises WebSocketRefusedError if the module refuses the
        handshake."""
        patience = self._patience if timeout is None else timeout
        all_headers = httpx.Headers(self.headers)
        all_headers.update(headers)
        for name in ("accept-encoding", "accept", "connection"):
            all_headers.pop(name, None)
        all_headers["host"] = self.base_url.netloc.decode("ascii")
        if subprotocols:
            all_headers["sec-websocket-protocol"] = ", ".join(subprotocols)
        url = self.base_url.join(path).copy_with(scheme="ws" if self._certificate is None else "wss")
        begin = self._module.websocket(url, all_headers.raw, subprotocols, certificate=self._certificate)
        session = self._running.run(begin, patience)
        return WebSocket(session, self._running.run, patience)

    def with_claims(self, *, scheme: str | None = None, **claims: Any) -> ModuleClient:
        """A client of the same module that sends a bearer token with these claims.

        The token has `sub` "test", the issuer and the first audience of the scheme, and is valid for one hour. `claims`
        replace these; None leaves a claim out. `scheme` names a scheme of type jwt or oidc; the default is the first
        one. Raises ValueError if there is no such scheme.

            assert client.with_claims(sub="alice", scope="read").get("/reports").status_code == 200
        """
        token = self.run(self._module.token(scheme, claims))
        client = ModuleClient(self._running, self._module, self._patience, self._certificate)
        client.headers = self.headers.copy()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    def with_certificate(self, subject: str = "CN=test", *names: str) -> ModuleClient:
        """A client of the same module that shows a client certificate, as over a TLS listener that has verified it.

        `subject` has the form of RFC 4514. `names` are alternative names with their kind, such as `DNS:a.example`. No
        handshake takes place, so it does not matter which CAs the listener accepts. Raises ValueError for a name of
        another form.

            assert client.with_certificate("CN=billing,O=Example").get("/internal").status_code == 200
        """
        client = ModuleClient(self._running, self._module, self._patience, client_certificate(subject, names))
        client.headers = self.headers.copy()
        return client

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The log of the module so far, including the access log: one dict for each record, as in JSON, with secrets
        masked."""
        if self._running.failure is None:
            self._running.run(_let_tasks_finish(), self._patience)
        return self._module.setup.logs.records()

    def run(self, coroutine: Coroutine[Any, Any, R], timeout: float | None = None) -> R:
        """Run a coroutine on the module's event loop and return its result: `client.run(client.state.get_secret("A"))`.
        Raises its error, or TimeoutError after `timeout` seconds (default: the timeout of the module)."""
        return self._running.run(coroutine, self._patience if timeout is None else timeout)

    def deliver(self, type: str, message: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """Deliver a message to the handler for `type` (`@on_message`), and return its reply. `timeout` is in seconds.
        The credential of the client's `Authorization` header, such as that of `with_claims`, goes with the message.
        Raises MessagingError if there is no such handler, or if the handler fails."""
        patience = self._patience if timeout is None else timeout
        handlers = self._module.host.channels.messages.handlers
        credential = self.headers.get("authorization")
        return self.run(handlers.deliver(type, message or {}, patience, authorization=credential), patience + 1)

    def rotate(self, **secrets: str) -> None:
        """Give secrets new values, all at once, as the orchestrator does. The module must have been started with
        `secrets`. Raises SecretError if a rotation hook refuses the values or `secrets.rotate` is off; the old values
        stay in use."""
        self.run(self._module.rotate(secrets))


class AsyncModuleClient(_ModuleAccess, httpx.AsyncClient):
    """An `httpx.AsyncClient` for one module that runs on the test's event loop, from `pywatt_module.client(...)`.
    Timeouts are those of ModuleClient."""

    def __init__(
        self,
        running: BackgroundContext[StartedModule],
        module: StartedModule,
        timeout: float,
        certificate: ClientCertificate | None = None,
    ) -> None:
        super().__init__(
            transport=_AsyncTransport(running, module, timeout, certificate),
            base_url=BASE_URL if certificate is None else SECURE_URL,
            timeout=timeout,
            trust_env=False,
        )
        self._certificate = certificate
        self._running = running
        self._module = module
        self._patience = timeout

    async def send(self, request: httpx.Request, *, stream: bool = False, **more: Any) -> httpx.Response:
        """Send a request, as `send` of the httpx client does."""
        if not stream:
            request.extensions = {**request.extensions, _READ_WHOLE: True}
        return await super().send(request, stream=stream, **more)

    async def with_claims(self, *, scheme: str | None = None, **claims: Any) -> AsyncModuleClient:
        """See ModuleClient.with_claims."""
        token = await self._module.token(scheme, claims)
        client = AsyncModuleClient(self._running, self._module, self._patience, self._certificate)
        client.headers = self.headers.copy()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    async def with_certificate(self, subject: str = "CN=test", *names: str) -> AsyncModuleClient:
        """See ModuleClient.with_certificate."""
        client = AsyncModuleClient(self._running, self._module, self._patience, client_certificate(subject, names))
        client.headers = self.headers.copy()
        return client

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The log of the module so far. The access log has a request one turn of the event loop after its response."""
        return self._module.setup.logs.records()

    async def deliver(self, type: str, message: Mapping[str, Any] | None = None, timeout: float | None = None) -> Any:
        """See ModuleClient.deliver."""
        patience = self._patience if timeout is None else timeout
        handlers, credential = self._module.host.channels.messages.handlers, self.headers.get("authorization")
        return await handlers.deliver(type, message or {}, patience, authorization=credential)

    async def rotate(self, **secrets: str) -> None:
        """See ModuleClient.rotate."""
        await self._module.rotate(secrets)


async def _let_tasks_finish() -> None:
    for _ in range(_LOOP_TURNS):
        await asyncio.sleep(0)
