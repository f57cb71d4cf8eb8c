"""httpx transports that apply the policies of `resiliency.targets`.

The timeout is for all attempts up to the head of the response. The body is read under the timeouts of the client, and
the request is not made again where the body breaks off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias, TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx

from pywatt_host.auth.origin import origin_of
from pywatt_host.clients.resilience.exchange import Attempts
from pywatt_host.clients.resilience.policy import TargetPolicy

T = TypeVar("T")

AsyncSend: TypeAlias = Callable[[httpx.Request], Awaitable[httpx.Response]]
BlockingSend: TypeAlias = Callable[[httpx.Request], httpx.Response]
# Makes another transport of one, such as one that records each request.
Wrap: TypeAlias = Callable[[httpx.AsyncBaseTransport], httpx.AsyncBaseTransport]
BlockingWrap: TypeAlias = Callable[[httpx.BaseTransport], httpx.BaseTransport]


def unchanged(network: T) -> T:
    """The transport itself."""
    return network


async def send_with_retries(policy: TargetPolicy, request: httpx.Request, send: AsyncSend) -> httpx.Response:
    """Send a request, again where the policy says so, and return the final response. Raises the error of the last
    attempt, CircuitOpenError and DeadlineError."""
    exchange = Attempts(policy, request)
    while True:
        exchange.begin()
        wait: float | None
        try:
            async with asyncio.timeout(exchange.left()) as limit:
                response = await send(request)
        except httpx.TransportError as error:
            wait = exchange.failed(error)
            if wait is None:
                raise
        except TimeoutError:
            if not limit.expired():
                raise
            raise exchange.late() from None
        else:
            wait = exchange.answered(response)
            if wait is None:
                return response
            await response.aclose()
        finally:
            exchange.ended()
        await asyncio.sleep(wait)


def send_with_retries_blocking(policy: TargetPolicy, request: httpx.Request, send: BlockingSend) -> httpx.Response:
    """As `send_with_retries`, for threads. A thread that waits cannot be interrupted: the timeout limits each step of
    an attempt (connecting, sending, waiting for bytes), and whether another attempt begins."""
    exchange = Attempts(policy, request)
    while True:
        exchange.begin()
        wait: float | None
        bounded = exchange.bounded()
        try:
            response = send(bounded)
        except httpx.TransportError as error:
            if isinstance(error, httpx.TimeoutException) and exchange.left() == 0:
                raise exchange.late() from error
            wait = exchange.failed(error)
            if wait is None:
                raise
        else:
            # The body is read under the timeouts of the client: the connection looks them up when it is read.
            bounded.extensions.update(request.extensions)
            wait = exchange.answered(response)
            if wait is None:
                return response
            response.close()
        finally:
            exchange.ended()
        time.sleep(wait)


class ClientTransport(httpx.AsyncBaseTransport):
    """The transport for one host. The policy applies to the origin of `base_url`, and not to other ports of the
    host."""

    def __init__(self, base_url: str, policy: TargetPolicy, wrap: Wrap = unchanged) -> None:
        self._origin = origin_of(httpx.URL(base_url))
        self._policy = policy
        self._network = wrap(httpx.AsyncHTTPTransport(proxy=proxy_of(base_url)))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if origin_of(request.url) != self._origin:
            return await self._network.handle_async_request(request)
        return await send_with_retries(self._policy, request, self._network.handle_async_request)

    async def aclose(self) -> None:
        await self._network.aclose()


class BlockingClientTransport(httpx.BaseTransport):
    """The transport for one host, for threads."""

    def __init__(self, base_url: str, policy: TargetPolicy, wrap: BlockingWrap = unchanged) -> None:
        self._origin = origin_of(httpx.URL(base_url))
        self._policy = policy
        self._network = wrap(httpx.HTTPTransport(proxy=proxy_of(base_url)))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if origin_of(request.url) != self._origin:
            return self._network.handle_request(request)
        return send_with_retries_blocking(self._policy, request, self._network.handle_request)

    def close(self) -> None:
        self._network.close()


def mounts(clients: Mapping[str, TargetPolicy], wrap: Wrap = unchanged) -> dict[str, httpx.AsyncBaseTransport]:
    """The transports of an AsyncClient by URL pattern, from policies by base URL. `wrap` is applied to the part of each
    that makes single attempts."""
    return {pattern_of(url): ClientTransport(url, policy, wrap) for url, policy in clients.items()}


def blocking_mounts(
    clients: Mapping[str, TargetPolicy], wrap: BlockingWrap = unchanged
) -> dict[str, httpx.BaseTransport]:
    """The transports of a blocking client by URL pattern, from policies by base URL. See `mounts`."""
    return {pattern_of(url): BlockingClientTransport(url, policy, wrap) for url, policy in clients.items()}


def pattern_of(base_url: str) -> str:
    """The URL pattern of httpx for a host and port."""
    url = httpx.URL(base_url)
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def proxy_of(base_url: str) -> str | None:
    """The proxy that the environment sets for a URL (HTTPS_PROXY, NO_PROXY), as for all other requests of httpx."""
    url = httpx.URL(base_url)
    found = getproxies()
    proxy = found.get(url.scheme) or found.get("all")
    if proxy is None or proxy_bypass(f"{url.host}:{url.port}" if url.port is not None else url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
