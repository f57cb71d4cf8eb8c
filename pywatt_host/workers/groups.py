"""The sockets of one address of a host with workers."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass

from pywatt_host.net.listeners import Listener, share

logger = logging.getLogger("pywatt.workers")


@dataclass(frozen=True, slots=True)
class Group:
    """The sockets of one address. `shared`: there is one for each place, and workers accept from them; otherwise there
    is one, and the supervisor accepts from it."""

    number: int
    listeners: tuple[Listener, ...]
    shared: bool
    steered: bool = False  # new connections are steered away from sockets that have left

    @property
    def first(self) -> Listener:
        return self.listeners[0]


def for_places(group: Group, places: int, bound: list[Listener]) -> Group:
    """The group with a socket for each place, where it can be shared. Further sockets are added to `bound`."""
    if sys.platform != "linux" or group.first.sock.family == socket.AF_UNIX:
        return Group(group.number, _numbered(group.number, (group.first,)), False)
    listeners = list(group.listeners[:places])
    more: list[Listener] = []
    try:
        while len(listeners) + len(more) < places:
            more.append(share(group.first))
    except OSError as error:
        for listener in more:
            listener.close()
        logger.info("%s: the supervisor accepts and passes connections (%s)", group.first.address, error)
        steered = group.steered or len(group.listeners) > 1
        return Group(group.number, _numbered(group.number, (group.first,)), False, steered)
    bound += more
    steered = group.steered or places < len(group.listeners)
    return Group(group.number, _numbered(group.number, (*listeners, *more)), True, steered)


def _numbered(number: int, listeners: tuple[Listener, ...]) -> tuple[Listener, ...]:
    for listener in listeners:
        listener.number = number
    return listeners


def addresses_of(groups: Iterable[Group], tls: Container[int]) -> tuple[str, ...]:
    """The addresses for clients; `tls` has the numbers of the listeners with TLS."""
    return tuple(
        group.first.address.replace("http://", "https://", 1) if group.number in tls else group.first.address
        for group in groups
    )


def listeners_of_place(groups: Iterable[Group], place: int) -> list[tuple[int, socket.socket]]:
    return [
        (group.number, group.listeners[place].sock) for group in groups if group.shared and place < len(group.listeners)
    ]
