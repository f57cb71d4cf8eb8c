"""HTTP servers of the supervisor that a reload can add, keep and close: the admin listener, and the redirect."""

from __future__ import annotations

import logging
import sys
import time
from asyncio import TaskGroup
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from pywatt_host.exceptions import BindError
from pywatt_host.http.allowed_hosts import HostCheck
from pywatt_host.http.edge import HostPath
from pywatt_host.http.exchange import with_added
from pywatt_host.http.host_paths import HostPathsApp
from pywatt_host.http.server.server import Drain, HttpServer
from pywatt_host.http.server.serving import Bounds
from pywatt_host.manifest.values import Address
from pywatt_host.net.listeners import Listener, allow_sharing, bind
from pywatt_host.net.tls_material import ListenerTls
from pywatt_host.types import ASGIApp, Headers, Message, Receive, Scope, Send

logger = logging.getLogger("pywatt.workers")

_BACKLOG = 128
_LEAVE_TIME = 5.0  # seconds for the requests on a listener that a reload closes


class HostPathsOfNow:
    """Serves the host's own paths, for the hosts that are allowed and with the headers that are added, as they are when
    a request arrives."""

    def __init__(
        self,
        table: Callable[[], Mapping[str, HostPath]],
        hosts: Callable[[], HostCheck | None],
        added: Callable[[], Headers] = list,
    ) -> None:
        self._table = table
        self._hosts = hosts
        self._added = added

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": with_added(message["headers"], self._added())}
            await send(message)

        await HostPathsApp(self._table(), self._hosts())(scope, receive, sent)


class _LeavingDrain(Drain):
    """The drain of the host, until the server leaves by itself: then it has a deadline of its own, and what it cuts
    does not count for the host."""

    def __init__(self, host: Drain) -> None:
        super().__init__()
        self._host = host

    def leave(self, seconds: float) -> None:
        """The server has so many seconds to drain."""
        self.deadline = time.monotonic() + seconds

    def left(self) -> float:
        return super().left() if self.deadline is not None else self._host.left()


@dataclass(frozen=True, slots=True)
class _Served:
    drain: _LeavingDrain
    stack: AsyncExitStack


class OwnServers:
    """One server for each address of a manifest key. An address that stays keeps its server, its connections and its
    port."""

    def __init__(
        self,
        name: str,
        key: str,
        app: ASGIApp,
        drain: Drain,
        beside: Callable[[Address], list[Listener]],
        failed_handshakes: Counter[str] | None = None,
    ) -> None:
        """`beside` gives other listeners of this host that have the port of an address. They may leave while a new one
        of this server takes it."""
        self._name = name
        self._key = key
        self._app = app
        self._drain = drain
        self._beside = beside
        self._failed_handshakes = failed_handshakes
        self._tls = ListenerTls(name)  # the terms of all listeners, where they have TLS
        self._unfollow: Callable[[], None] = lambda: None
        self._running: dict[Address, _Served] = {}
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
                    bound[address] = self._bind(address, directory)
        except BaseException:
            close_listeners(bound)
            raise
        return bound

    def _bind(self, address: Address, directory: Path) -> list[Listener]:
        try:
            return bind([address], key=self._key, directory=directory, backlog=_BACKLOG)
        except BindError:
            own = self._beside(address)
            if not own or sys.platform != "linux":
                raise
            for listener in own:
                allow_sharing(listener.sock)
            return bind([address], key=self._key, directory=directory, backlog=_BACKLOG, reuse_port=True)

    @property
    def listeners(self) -> list[Listener]:
        """All listeners."""
        return [listener for listeners in self._listeners.values() for listener in listeners]

    async def use(
        self,
        addresses: Sequence[Address],
        bound: Mapping[Address, list[Listener]],
        tasks: TaskGroup,
        bounds: Bounds,
        tls: ListenerTls | None = None,
    ) -> None:
        """Serve on the addresses that `bind` has bound, and no more on those that are not among `addresses`. Requests
        that run there get a few seconds to finish. `tls` has the terms of new connections on all of them."""
        self._secure(tls, [*self._listeners.values(), *bound.values()])
        for address, listeners in bound.items():
            served = self._running[address] = _Served(_LeavingDrain(self._drain), AsyncExitStack())
            self._listeners[address] = listeners
            server = HttpServer(
                self._name, self._app, listeners, bounds, served.drain,
                failed_handshakes=self._failed_handshakes, tls=self._tls,
            )  # fmt: skip
            await served.stack.enter_async_context(server.running(tasks))
        for address in [each for each in self._running if each not in addresses]:
            del self._listeners[address]
            served = self._running.pop(address)
            served.drain.leave(_LEAVE_TIME)
            await served.stack.aclose()

    def _secure(self, tls: ListenerTls | None, bound: Iterable[Iterable[Listener]]) -> None:
        """Follow the terms of a TLS section, in place of those before."""
        self._unfollow()
        self._unfollow = lambda: None
        if tls is not None:
            self._tls.use(tls.terms)
            self._unfollow = tls.follow(lambda: self._tls.use(tls.terms))
        for listeners in bound:
            for listener in listeners:
                listener.secure(self._tls if tls is not None else None)

    async def close(self) -> None:
        """Drain and close all."""
        while self._running:
            _, served = self._running.popitem()
            await served.stack.aclose()
        close_listeners(self._listeners)
        self._listeners.clear()


def close_listeners(bound: Mapping[Address, list[Listener]]) -> None:
    """Close listeners that are not served."""
    for listeners in bound.values():
        for listener in listeners:
            listener.close()
