"""The open connections of a server: how many each client has, and which ones make room for others."""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

from pywatt_host.http.server.serving import Serving
from pywatt_host.net.limits import client_key

_ROOM = 8  # connections that are closed at once to make room for others
_FRESH = 1.0  # seconds in which a new connection without a request does not count as idle
_UNCOUNTED = ""  # the client of connections over Unix sockets


class OpenConnections:
    """Those of trusted proxies do not count for `limits.connections_per_client`."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._counts: Counter[str] = Counter()  # connections by client
        self._clients: dict[Any, str] = {}  # connection -> client

    def __len__(self) -> int:
        return len(self._clients)

    def expect(self, client: str) -> None:
        """Count a connection that is about to be added."""
        self._counts[client] += 1

    def add(self, connection: Any, client: str) -> None:
        """Add a connection that was counted."""
        self._clients[connection] = client

    def remove(self, connection: Any) -> bool:
        """Forget a connection that has ended. False: it was not added, or has been forgotten."""
        client = self._clients.pop(connection, None)
        if client is None:
            return False
        self.forget(client)
        return True

    def client_of(self, sock: socket.socket) -> str:
        """The client that a connection is counted for: its address, and the network of 64 bits of an IPv6 address."""
        if sock.family == socket.AF_UNIX or self._serving.bounds.connections_per_client is None:
            return _UNCOUNTED
        try:
            host = sock.getpeername()[0]
        except OSError:
            return _UNCOUNTED
        if self._serving.handler.trusts(host):
            return _UNCOUNTED
        return client_key(host)

    def over(self, client: str) -> bool:
        """Whether a client has as many connections as it may."""
        limit = self._serving.bounds.connections_per_client
        return limit is not None and client != _UNCOUNTED and self._counts[client] >= limit

    def forget(self, client: str) -> None:
        """Undo `expect`."""
        self._counts[client] -= 1
        if self._counts[client] <= 0:
            del self._counts[client]

    def make_room(self) -> bool:
        """Close connections that are idle for longest, of the client that has most connections. Returns whether there
        were some."""
        now = self._serving.now
        holders: dict[str, list[Any]] = {}
        sizes: Counter[str] = Counter()
        for connection in self._clients:
            holder = client_key(connection.peer)
            sizes[holder] += 1
            if connection.transport.get_write_buffer_size():
                continue  # it may have answered, but the client has not read the answer
            if connection.idle and (not connection.fresh or now - connection.since >= _FRESH):
                holders.setdefault(holder, []).append(connection)
        if not holders:
            return False
        biggest = max(holders, key=lambda holder: sizes[holder])
        oldest = sorted(holders[biggest], key=lambda connection: connection.since)
        for connection in oldest[:_ROOM]:
            connection.transport.abort()
            self.remove(connection)
        return True
