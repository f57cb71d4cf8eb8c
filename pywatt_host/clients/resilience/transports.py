"""httpx transports that keep to the policies of `resiliency.targets`.

The limit of time is for all attempts up to the head of the response; its body comes under the client's own timeouts,
and is not asked for again where it breaks off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.request import getproxies, proxy_bypass

import httpx

from pywatt_host.auth.origin import origin_of
from pywatt_host.clients.resilience.exchange import Attempts
from pywatt_host.clients.resilience.policy import TargetPolicy

AsyncSend: TypeAlias = Callable[[httpx.Request], Awaitable[httpx.Response]]
BlockingSend: TypeAlias = Callable[[httpx.Request], httpx.Response]


async def send_with_retries(policy: TargetPolicy, request: httpx.Request, send: AsyncSend) -> httpx.Response:
    """The first answer of `send` that is not to be tried again. Raises what it raised, CircuitOpenError and
    DeadlineError."""
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
    """The same for threads. Nothing interrupts a thread that waits: the limit of time bounds each step of an attempt
    (connecting, sending, waiting for octets) and what is begun after it."""
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
            # The body is read under the client's own timeouts: the connection looks them up once it is.
            bounded.extensions.update(request.extensions)
            wait = exchange.answered(response)
            if wait is None:
                return response
            response.close()
        finally:
            exchange.ended()
        time.sleep(wait)


class ClientTransport(httpx.AsyncBaseTransport):
    """For one host: the policy of its origin; nothing is added to requests to other ports of it."""

    def __init__(self, base_url: str, policy: TargetPolicy) -> None:
        self._origin = origin_of(httpx.URL(base_url))
        self._policy = policy
        self._through = httpx.AsyncHTTPTransport(proxy=proxy_of(base_url))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if origin_of(request.url) != self._origin:
            return await self._through.handle_async_request(request)
        return await send_with_retries(self._policy, request, self._through.handle_async_request)

    async def aclose(self) -> None:
        await self._through.aclose()


class BlockingClientTransport(httpx.BaseTransport):
    """The same for threads."""

    def __init__(self, base_url: str, policy: TargetPolicy) -> None:
        self._origin = origin_of(httpx.URL(base_url))
        self._policy = policy
        self._through = httpx.HTTPTransport(proxy=proxy_of(base_url))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if origin_of(request.url) != self._origin:
            return self._through.handle_request(request)
        return send_with_retries_blocking(self._policy, request, self._through.handle_request)

    def close(self) -> None:
        self._through.close()


def mounts(clients: Mapping[str, TargetPolicy]) -> dict[str, httpx.AsyncBaseTransport]:
    """Transports of an AsyncClient by the pattern of their URLs, for policies by base URL."""
    return {pattern_of(url): ClientTransport(url, policy) for url, policy in clients.items()}


def blocking_mounts(clients: Mapping[str, TargetPolicy]) -> dict[str, httpx.BaseTransport]:
    return {pattern_of(url): BlockingClientTransport(url, policy) for url, policy in clients.items()}


def pattern_of(base_url: str) -> str:
    url = httpx.URL(base_url)
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def proxy_of(base_url: str) -> str | None:
    """The proxy that the environment names for it, as it does for every other request (HTTPS_PROXY, NO_PROXY)."""
    url = httpx.URL(base_url)
    found = getproxies()
    proxy = found.get(url.scheme) or found.get("all")
    if proxy is None or proxy_bypass(f"{url.host}:{url.port}" if url.port is not None else url.host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
