"""The place of a worker among the workers of a host: when it accepts, and which connections it gives away.

The kernel chooses a listening socket by a hash, which loads some workers more than others. So a worker that has more
connections than others gives new ones to the supervisor, which passes them on.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from pywatt_host.net.listeners import Listener
from pywatt_host.net.passing import PassingChannel
from pywatt_host.net.tls_material import ListenerTls

_SURPLUS = 2  # connections more than the least loaded worker, from which on new ones are given away
_SHARE = 16  # ... and one more for each so many connections of that worker, since each passing costs time


class Cell(Protocol):
    """A number in memory that the processes of a host share."""

    def set(self, value: int) -> None: ...


class Place:
    """What the HTTP server of a worker has beside its application.

    `listeners` are duplicates of the sockets of this place, which the supervisor owns: the server never listens,
    refuses connections or removes a path. `connections` is told the number of open connections. `least` returns the
    least number of connections of any other worker that accepts; None where there is no other. `addresses` are all
    those that the host listens on. `tls` has the terms of the TLS listeners of the host, by number.
    """

    def __init__(
        self,
        passing: PassingChannel,
        connections: Cell,
        least: Callable[[], int | None],
        listeners: Sequence[Listener] = (),
        addresses: Sequence[str] = (),
        tls: Mapping[int, ListenerTls] = MappingProxyType({}),
    ) -> None:
        self.passing = passing
        self.connections = connections
        self.listeners = tuple(listeners)
        self.addresses = tuple(addresses)
        self.tls = tls
        self.accepting = False  # `accept` was called
        self.retired = False  # `retire` was called
        self._least = least
        self._followers: list[Callable[[], None]] = []

    def accept(self) -> None:
        """Accept from now on. Before, the listening sockets and the passing channel are left alone."""
        self.accepting = True
        self._changed()

    def retire(self) -> None:
        """Leave what waits at the listening sockets to a successor, which accepts already: now, and at the stop.
        Connections that the supervisor passes are still taken."""
        self.retired = True
        self._changed()

    def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each `accept` and `retire`."""
        self._followers.append(changed)

    def give_away(self, connection: socket.socket, listener: int, count: int) -> bool:
        """Give a new connection to the supervisor, if this worker has too many. `count` is the number of its
        connections with the new one. Where it returns True, the connection is closed here."""
        least = self._least()
        if least is None or count - least < _SURPLUS + least // _SHARE:
            return False
        if not self.passing.send(connection, listener):
            return False
        connection.close()
        return True

    def _changed(self) -> None:
        for changed in self._followers:
            changed()
