"""The providers of a module: which one is next, and how a request to module:// becomes a request to it. No I/O."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import httpx

SCHEME = "module"
SOCKET = "http+unix:"
_AVOID_SECONDS = 10.0  # for which a provider that could not be reached comes last
_MAX_REMEMBERED = 1024  # modules, and addresses that could not be reached: the latest ones


class ProviderAddress(NamedTuple):
    """The HTTP address of one provider: `http://HOST:PORT`, `https://HOST:PORT` or `http+unix:/PATH`."""

    url: str
    healthy: bool = True


class RoundRobin:
    """The order of providers: healthy ones in turn, then those that could not be reached lately, then unhealthy ones.

    Safe from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: OrderedDict[str, itertools.count[int]] = OrderedDict()
        self._avoided: OrderedDict[str, float] = OrderedDict()

    def order(self, name: str, addresses: Sequence[ProviderAddress], tried: Collection[str] = ()) -> list[str]:
        """The addresses of a module in the order in which to try them; those in `tried` come last."""
        with self._lock:
            turns = self._turns.setdefault(name, itertools.count())
            self._turns.move_to_end(name)
            if len(self._turns) > _MAX_REMEMBERED:
                self._turns.popitem(last=False)
            turn, now = next(turns), self._clock()
            avoided = {url for url, until in self._avoided.items() if until > now}
        unique = list(dict.fromkeys(addresses))
        healthy = [each for each in unique if each.healthy]
        first = turn % len(healthy) if healthy else 0
        in_turn = [*healthy[first:], *healthy[:first], *(each for each in unique if not each.healthy)]
        in_turn.sort(key=lambda each: (each.url in tried, not each.healthy, each.url in avoided))
        return list(dict.fromkeys(each.url for each in in_turn))

    def unreachable(self, url: str) -> None:
        """A provider could not be reached: let it come last for some seconds."""
        with self._lock:
            self._avoided[url] = self._clock() + _AVOID_SECONDS
            self._avoided.move_to_end(url)
            if len(self._avoided) > _MAX_REMEMBERED:
                self._avoided.popitem(last=False)


def socket_of(address: str) -> str | None:
    """The path of a Unix socket; None for another address."""
    return address.removeprefix(SOCKET) if address.startswith(SOCKET) else None


def server_of(name: str, address: str) -> httpx.URL:
    """The origin of requests to an address. For a Unix socket, the host is the name of the module."""
    return httpx.URL(f"http://{name}" if socket_of(address) is not None else address)


def addressed(request: httpx.Request, address: str) -> httpx.Request:
    """The same request to one provider. Path, query and headers are kept. The server is that of the provider, and so is
    Host, unless the application has set its own."""
    server = server_of(request.url.host, address)
    url = server.copy_with(raw_path=request.url.raw_path)
    headers = request.headers.copy()
    if headers.get("host", "").encode() == request.url.netloc:
        headers["host"] = server.netloc.decode("ascii")
    sent = httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
    sent.extensions = request.extensions  # the same mapping, since its timeouts may change later
    return sent


def put_location(response: httpx.Response, request: httpx.Request, address: str) -> None:
    """Rewrite a redirect: one that stays on the provider becomes module://NAME/..., so that it stays on the module; one
    to another server stays as it is."""
    location = response.headers.get("location")
    if location is None:
        return
    server = server_of(request.url.host, address)
    try:
        url = server.copy_with(raw_path=request.url.raw_path).join(location)
    except httpx.InvalidURL:
        return  # the client reports what is wrong with it
    if (url.scheme, url.host, url.port) == (server.scheme, server.host, server.port):
        response.headers["location"] = str(url.copy_with(scheme=SCHEME, host=request.url.host, port=None))
    elif "://" not in location:
        response.headers["location"] = str(url)
