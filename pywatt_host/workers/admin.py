"""HTTP servers of the supervisor that a reload can add, keep and close: those of `server.admin`."""

from __future__ import annotations

import logging
from asyncio import TaskGroup
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from pywatt_host.http.edge import HostPath
from pywatt_host.http.host_paths import HostPathsApp
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.values import Address
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.types import ASGIApp, Receive, Scope, Send

logger = logging.getLogger("pywatt.workers")

_KEY = "server.admin.listen"


class HostPathsOfNow:
    """Serves the host's own paths, as they are when a request arrives."""

    def __init__(self, table: Callable[[], Mapping[str, HostPath]]) -> None:
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await HostPathsApp(self._table())(scope, receive, send)


class AdminServers:
    """One server for each address. An address that stays keeps its server, its connections and its port."""

    def __init__(self, app: ASGIApp, bounds: Bounds, drain: Drain) -> None:
        self._app = app
        self._bounds = bounds
        self._drain = drain
        self._running: dict[Address, AsyncExitStack] = {}
        self._listeners: dict[Address, list[Listener]] = {}

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that are really bound."""
        return tuple(each.address for listeners in self._listeners.values() for each in listeners)

    def bind(self, addresses: Sequence[Address], directory: Path) -> dict[Address, list[Listener]]:
        """Bind the addresses that are new. Raises BindError; nothing stays bound then."""
        bound: dict[Address, list[Listener]] = {}
        try:
            for address in dict.fromkeys(addresses):
                if address not in self._listeners:
                    bound[address] = bind([address], key=_KEY, directory=directory, backlog=self._bounds.backlog)
        except BaseException:
            close_listeners(bound)
            raise
        return bound

    async def use(
        self, addresses: Sequence[Address], bound: Mapping[Address, list[Listener]], tasks: TaskGroup
    ) -> None:
        """Serve on the addresses that `bind` has bound, and no more on those that are not among `addresses`."""
        for address, listeners in bound.items():
            stack = self._running[address] = AsyncExitStack()
            self._listeners[address] = listeners
            server = HttpServer("admin", self._app, listeners, self._bounds, self._drain)
            await stack.enter_async_context(server.running(tasks))
        for address in [each for each in self._running if each not in addresses]:
            del self._listeners[address]
            await self._running.pop(address).aclose()

    async def close(self) -> None:
        """Drain and close all."""
        for stack in self._running.values():
            await stack.aclose()
        self._running.clear()
        close_listeners(self._listeners)
        self._listeners.clear()


def close_listeners(bound: Mapping[Address, list[Listener]]) -> None:
    """Close listeners that are not served."""
    for listeners in bound.values():
        for listener in listeners:
            listener.close()
