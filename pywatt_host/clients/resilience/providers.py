"""Who answers for a module: which provider is asked next, and how a request to module:// becomes one to it. No I/O."""

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
_ASIDE = 10.0  # seconds for which a provider that could not be reached comes last
_REMEMBERED = 1024  # modules and addresses, the latest


class ProviderAddress(NamedTuple):
    """Where one provider answers HTTP: `http://HOST:PORT`, `https://HOST:PORT` or `http+unix:/PATH`."""

    url: str
    healthy: bool = True


class RoundRobin:
    """Whose turn it is: healthy providers in turn, then those that could not be reached lately, then the others.

    Safe from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._turns: OrderedDict[str, itertools.count[int]] = OrderedDict()
        self._aside: OrderedDict[str, float] = OrderedDict()

    def order(self, name: str, addresses: Sequence[ProviderAddress], tried: Collection[str] = ()) -> list[str]:
        """Addresses of a module in the order in which to ask them; those of `tried` last."""
        with self._lock:
            turns = self._turns.setdefault(name, itertools.count())
            self._turns.move_to_end(name)
            if len(self._turns) > _REMEMBERED:
                self._turns.popitem(last=False)
            turn, now = next(turns), self._clock()
            aside = {url for url, until in self._aside.items() if until > now}
        unique = list(dict.fromkeys(addresses))
        healthy = [each for each in unique if each.healthy]
        first = turn % len(healthy) if healthy else 0
        in_turn = [*healthy[first:], *healthy[:first], *(each for each in unique if not each.healthy)]
        in_turn.sort(key=lambda each: (each.url in tried, not each.healthy, each.url in aside))
        return list(dict.fromkeys(each.url for each in in_turn))

    def unreachable(self, url: str) -> None:
        """It comes last for some seconds."""
        with self._lock:
            self._aside[url] = self._clock() + _ASIDE
            self._aside.move_to_end(url)
            if len(self._aside) > _REMEMBERED:
                self._aside.popitem(last=False)


def socket_of(address: str) -> str | None:
    """The path of the Unix socket, where it is one."""
    return address.removeprefix(SOCKET) if address.startswith(SOCKET) else None


def server_of(name: str, address: str) -> httpx.URL:
    """The origin of requests to it: a Unix socket answers by the name of the module."""
    return httpx.URL(f"http://{name}" if socket_of(address) is not None else address)


def addressed(request: httpx.Request, address: str) -> httpx.Request:
    """The same request to one provider: path, query and headers are kept, Host (unless the application set its own) and
    the server are the provider's."""
    server = server_of(request.url.host, address)
    url = server.copy_with(raw_path=request.url.raw_path)
    headers = request.headers.copy()
    if headers.get("host", "").encode() == request.url.netloc:
        headers["host"] = server.netloc.decode("ascii")
    sent = httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)
    sent.extensions = request.extensions  # the same mapping: its timeouts may yet change
    return sent


def put_location(response: httpx.Response, request: httpx.Request, address: str) -> None:
    """Let a redirect that stays on the provider stay on the module, as module://NAME/...; one elsewhere leads there."""
    location = response.headers.get("location")
    if location is None:
        return
    server = server_of(request.url.host, address)
    try:
        url = server.copy_with(raw_path=request.url.raw_path).join(location)
    except httpx.InvalidURL:
        return  # the client says what is wrong with it
    if (url.scheme, url.host, url.port) == (server.scheme, server.host, server.port):
        response.headers["location"] = str(url.copy_with(scheme=SCHEME, host=request.url.host, port=None))
    elif "://" not in location:
        response.headers["location"] = str(url)
