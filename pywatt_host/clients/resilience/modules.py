"""module://NAME/path: requests to the present providers of a module, by its id or the name of a service."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import httpx

from pywatt_host.clients.resilience.exchange import UNCONNECTED
from pywatt_host.clients.resilience.policy import TargetPolicy
from pywatt_host.clients.resilience.providers import ProviderAddress, RoundRobin, addressed, put_location, socket_of
from pywatt_host.clients.resilience.transports import (
    BlockingWrap,
    Wrap,
    send_with_retries,
    send_with_retries_blocking,
    unchanged,
)
from pywatt_host.exceptions import MessagingError

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[ProviderAddress]]]
BlockingResolve: TypeAlias = Callable[[str], Sequence[ProviderAddress]]
PolicyFor: TypeAlias = Callable[[str], TargetPolicy]

_MAX_SOCKETS = 64  # Unix sockets, the last used ones, to which connections are kept


class ModuleError(httpx.ConnectError):
    """No provider of a module answers: none is known (`__cause__` is then the MessagingError), or none could be
    reached."""


class ModuleTransport(httpx.AsyncBaseTransport):
    """The asynchronous transport. `resolve` gives the providers, and raises MessagingError where there are none. `wrap`
    is applied to the transports to single providers."""

    def __init__(
        self,
        resolve: Resolve,
        policies: PolicyFor | None = None,
        round_robin: RoundRobin | None = None,
        wrap: Wrap = unchanged,
    ) -> None:
        self._wrap = wrap
        self._resolve = resolve
        self._policies = policies or _unlimited
        self._round_robin = round_robin or RoundRobin()
        self._tls = httpx.create_ssl_context()
        # No proxy of the environment: modules are on this side of it.
        self._network = wrap(httpx.AsyncHTTPTransport(verify=self._tls, trust_env=False))
        self._sockets: OrderedDict[str, httpx.AsyncBaseTransport] = OrderedDict()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        check_module(request.url)
        tried: set[str] = set()
        return await send_with_retries(
            self._policies(request.url.host), request, lambda request: self._send(request, tried)
        )

    async def _send(self, request: httpx.Request, tried: set[str]) -> httpx.Response:
        """Send to the first provider that accepts the connection. Providers that were tried before come last."""
        name = request.url.host
        try:
            addresses = await self._resolve(name)
        except MessagingError as error:
            raise ModuleError(f"{request.url}: {error}", request=request) from error
        faults: list[str] = []
        for address in self._round_robin.order(name, addresses, tried):
            tried.add(address)
            through = await self._through(address)
            try:
                response = await through.handle_async_request(addressed(request, address))
            except UNCONNECTED as error:
                self._round_robin.unreachable(address)
                faults.append(fault(address, error))
            else:
                put_location(response, request, address)
                return response
        raise unreachable(request, faults)

    async def _through(self, address: str) -> httpx.AsyncBaseTransport:
        path = socket_of(address)
        if path is None:
            return self._network
        found = self._sockets.get(path)
        if found is None:
            found = self._sockets[path] = self._wrap(httpx.AsyncHTTPTransport(verify=self._tls, uds=path))
        self._sockets.move_to_end(path)
        if len(self._sockets) > _MAX_SOCKETS:
            await self._sockets.popitem(last=False)[1].aclose()
        return found

    async def aclose(self) -> None:
        sockets = list(self._sockets.values())
        self._sockets.clear()
        for each in (self._network, *sockets):
            await each.aclose()


class BlockingModuleTransport(httpx.BaseTransport):
    """The transport for threads."""

    def __init__(
        self,
        resolve: BlockingResolve,
        policies: PolicyFor | None = None,
        round_robin: RoundRobin | None = None,
        wrap: BlockingWrap = unchanged,
    ) -> None:
        self._wrap = wrap
        self._resolve = resolve
        self._policies = policies or _unlimited
        self._round_robin = round_robin or RoundRobin()
        self._tls = httpx.create_ssl_context()
        self._network = wrap(httpx.HTTPTransport(verify=self._tls, trust_env=False))
        self._sockets: OrderedDict[str, httpx.BaseTransport] = OrderedDict()
        self._lock = threading.Lock()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        check_module(request.url)
        tried: set[str] = set()
        return send_with_retries_blocking(
            self._policies(request.url.host), request, lambda request: self._send(request, tried)
        )

    def _send(self, request: httpx.Request, tried: set[str]) -> httpx.Response:
        name = request.url.host
        try:
            addresses = self._resolve(name)
        except MessagingError as error:
            raise ModuleError(f"{request.url}: {error}", request=request) from error
        faults: list[str] = []
        for address in self._round_robin.order(name, addresses, tried):
            tried.add(address)
            try:
                response = self._through(address).handle_request(addressed(request, address))
            except UNCONNECTED as error:
                self._round_robin.unreachable(address)
                faults.append(fault(address, error))
            else:
                put_location(response, request, address)
                return response
        raise unreachable(request, faults)

    def _through(self, address: str) -> httpx.BaseTransport:
        path = socket_of(address)
        if path is None:
            return self._network
        with self._lock:
            found = self._sockets.get(path)
            if found is None:
                found = self._sockets[path] = self._wrap(httpx.HTTPTransport(verify=self._tls, uds=path))
            self._sockets.move_to_end(path)
            dropped = self._sockets.popitem(last=False)[1] if len(self._sockets) > _MAX_SOCKETS else None
        if dropped is not None:
            dropped.close()
        return found

    def close(self) -> None:
        with self._lock:
            sockets = list(self._sockets.values())
            self._sockets.clear()
        for each in (self._network, *sockets):
            each.close()


def _unlimited(name: str) -> TargetPolicy:
    return TargetPolicy(name, "")


def check_module(url: httpx.URL) -> None:
    """Raises UnsupportedProtocol for a URL that does not just name a module."""
    if url.port is not None:
        raise httpx.UnsupportedProtocol(
            f"{url}: a module URL has no port, since it is looked up. Write module://NAME/path"
        )


def fault(address: str, error: httpx.TransportError) -> str:
    return f"{address}: {str(error) or type(error).__name__}"


def unreachable(request: httpx.Request, faults: Sequence[str]) -> ModuleError:
    reason = "; ".join(faults) if faults else "none of its providers has an HTTP address"
    return ModuleError(f"module {request.url.host} cannot be reached: {reason}", request=request)
