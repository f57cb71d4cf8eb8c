"""The listening sockets of a host with workers.

The supervisor makes and holds them, so that neither the end of a worker nor a reload loses a connection. A worker has a
place, from 0 on. On Linux each place has a socket of its own for each TCP address (SO_REUSEPORT, socket(7)): the worker
accepts from it, and so does its successor. Where that is not possible, the supervisor accepts and passes connections.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import Address, UnixAddress
from pywatt_host.net.listeners import Listener, allow_sharing, bind, group_id, on_port_of
from pywatt_host.net.packet_filters import keep_syn, steer
from pywatt_host.workers.groups import Group, addresses_of, for_places, listeners_of_place

logger = logging.getLogger("pywatt.workers")

_MOST = 240  # listeners: a worker gets all their sockets in one message, which holds 253 descriptors at most

# An address, or the path of a Unix socket; and a number that tells equal addresses apart (port 0 may stand twice).
_Slot: TypeAlias = tuple[Address | Path, int]


class _Leaving(NamedTuple):
    """A socket that closes soon."""

    slot: _Slot
    listener: Listener


class Source(NamedTuple):
    """A socket that connections come from. `place` is that of the workers that accept from it; None: the supervisor
    does. `leaving`: it closes soon."""

    listener: Listener
    place: int | None
    leaving: bool


class ListeningSockets:
    """The sockets of the addresses in use, and those that are about to close. An address that stays keeps its sockets,
    and port 0 its port."""

    def __init__(self) -> None:
        self.tls: Mapping[int, str] = {}  # the TLS section of each listener that has one, by number
        self._groups: dict[_Slot, tuple[Group, ...]] = {}
        self._leaving: list[_Leaving] = []
        self._claimed: list[Listener] = []  # that leave, and that a change would use again
        # Inherited sockets that were closed: something else may have the descriptor now.
        self._given_up: set[Address | Path] = set()
        self._followers: list[Callable[[], None]] = []
        self._others: Callable[[], Iterable[Listener]] = tuple

    def beside(self, others: Callable[[], Iterable[Listener]]) -> None:
        """`others` gives further listeners of this host, whose port a new address may have while they leave."""
        self._others = others

    def prepare(
        self,
        addresses: Sequence[Address],
        *,
        key: str,
        places: int,
        directory: Path,
        backlog: int,
        environ: Mapping[str, str],
        tls: Sequence[str | None] = (),
    ) -> Change:
        """Bind what is new, for so many places. Nothing changes for clients before `Change.commit`.

        `key` is the manifest key of the addresses; Unix paths are relative to `directory`. `tls` has the key of the TLS
        section of each address, if any has one. Raises BindError; then nothing stays bound.
        """
        change = Change(self, key, places, backlog)
        try:
            for number, address in enumerate(addresses):
                place: Address | Path = directory / address.path if isinstance(address, UnixAddress) else address
                slot = (place, addresses[:number].count(address))
                groups = self._known(slot)
                if not groups:
                    listeners = self._bind(address, key, directory, backlog, environ, change.bound)
                    groups = tuple(Group(change.free_number(), (each,), False) for each in listeners)
                elif isinstance(address, UnixAddress):
                    shown = f"unix:{place}"
                    change.access.append((Path(shown[5:]), address.mode, group_id(address, shown, key)))
                found = tuple(for_places(group, places, change.bound) for group in groups)
                change.groups[slot] = found
                section = tls[number] if tls else None
                if section is not None:
                    secure = [group for group in found if group.first.sock.family != socket.AF_UNIX]
                    change.tls.update((group.number, section) for group in secure)
        except BaseException:
            change.rollback()
            raise
        chosen = {id(listener) for listener in change.listeners}
        self._claimed = [each.listener for each in self._leaving if id(each.listener) in chosen]
        return change

    def _known(self, slot: _Slot) -> tuple[Group, ...]:
        """The groups of an address, with their sockets that leave: those are used again where they are needed."""
        found = {group.number: group for group in self._groups.get(slot, ())}
        for each in self._leaving:
            listener = each.listener
            if each.slot == slot and listener.path is None and slot[0] not in self._given_up:
                group = found.get(listener.number)
                listeners = group.listeners if group is not None else ()
                found[listener.number] = Group(listener.number, (*listeners, listener), True, steered=True)
        return tuple(found.values())

    def _bind(
        self,
        address: Address,
        key: str,
        directory: Path,
        backlog: int,
        environ: Mapping[str, str],
        bound: list[Listener],
    ) -> list[Listener]:
        if address in self._given_up:
            raise BindError(str(address), key, "an earlier manifest gave the socket up", "restart the host")

        def attempt(reuse_port: bool) -> list[Listener]:
            return bind(
                [address],
                key=key,
                directory=directory,
                backlog=backlog,
                environ=dict(environ),
                reuse_port=reuse_port,
            )

        try:
            # Without SO_REUSEPORT first: an address that another process of this user has is in use, and not shared.
            found = attempt(False)
        except BindError:
            own = self.on_port_of(address) + on_port_of(address, self._others())
            if not own or sys.platform != "linux":
                raise
            for listener in own:  # 127.0.0.1:80 may become :80, though our own socket has the port
                allow_sharing(listener.sock)
            found = attempt(True)
        bound += found
        return found

    def on_port_of(self, address: Address) -> list[Listener]:
        """The sockets that have the port of an address."""
        return on_port_of(address, self._all())

    def _all(self) -> list[Listener]:
        used = [listener for group in self.groups for listener in group.listeners]
        return [*used, *(each.listener for each in self._leaving)]

    @property
    def numbers(self) -> set[int]:
        """The numbers of all listeners."""
        return {listener.number for listener in self._all()}

    @property
    def groups(self) -> list[Group]:
        return [group for groups in self._groups.values() for group in groups]

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses for clients: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`."""
        return addresses_of(self.groups, self.tls)

    def of_place(self, place: int) -> list[tuple[int, socket.socket]]:
        """The sockets that the workers of a place accept from, each with the number of its listener."""
        return listeners_of_place(self.groups, place)

    def sources(self) -> Iterator[Source]:
        """All sockets that connections may come from."""
        for group in self.groups:
            for place, listener in enumerate(group.listeners):
                yield Source(listener, place if group.shared else None, leaving=False)
        for each in self._leaving:
            yield Source(each.listener, None, leaving=True)

    def follow(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change of the sockets."""
        self._followers.append(changed)

    def replace(self, groups: dict[_Slot, tuple[Group, ...]], tls: Mapping[int, str]) -> None:
        """Put other groups in the place of those in use. Sockets that are in no group any more leave."""
        kept = {id(listener) for each in groups.values() for group in each for listener in group.listeners}
        for each in self._leaving:
            if id(each.listener) in kept:
                keep_syn(each.listener.sock)
        self._leaving = [each for each in self._leaving if id(each.listener) not in kept]
        self._claimed = []
        for slot, old in self._groups.items():
            for listener in (listener for group in old for listener in group.listeners):
                if id(listener) not in kept:
                    listener.refuse_new()
                    self._leaving.append(_Leaving(slot, listener))
                    if not listener.owned:
                        self._given_up.add(slot[0])
        self._groups, self.tls = groups, tls
        for changed in self._followers:
            changed()

    def left(self, listener: Listener) -> bool:
        """Close a socket that leaves, once its queue is empty. False: it stays, since a change may use it again."""
        if any(listener is claimed for claimed in self._claimed):
            return False
        self._leaving = [each for each in self._leaving if each.listener is not listener]
        listener.close()
        return True

    def released(self) -> None:
        """No change is prepared any more."""
        self._claimed = []

    def refuse_new(self) -> None:
        """Complete no new connections on any socket. What waits at an inherited socket stays for its owner's next
        process as well."""
        for group in self.groups:
            if len(group.listeners) > 1 and not group.first.owned:
                steer(group.first.sock, 1)
            for listener in group.listeners:
                listener.refuse_new()

    def close(self) -> None:
        """Close every socket, and remove the paths of Unix sockets."""
        for listener in self._all():
            listener.close()
        self._leaving, self._groups = [], {}


@dataclass(slots=True)
class Change:
    """Sockets that are bound and not in use yet. The next change is prepared once this one has been committed or rolled
    back."""

    _sockets: ListeningSockets
    _key: str
    places: int
    _backlog: int
    groups: dict[_Slot, tuple[Group, ...]] = field(default_factory=dict)
    tls: dict[int, str] = field(default_factory=dict)  # the TLS section of each listener that has one, by number
    bound: list[Listener] = field(default_factory=list)
    access: list[tuple[Path, int, int]] = field(default_factory=list)  # of Unix sockets: mode and group
    numbers: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = self._sockets.numbers

    @property
    def addresses(self) -> tuple[str, ...]:
        return addresses_of(self._all, self.tls)

    def of_place(self, place: int) -> list[tuple[int, socket.socket]]:
        """What the workers of a place accept from after the commit, each with the number of its listener."""
        return listeners_of_place(self._all, place)

    def commit(self) -> None:
        """Put the sockets to use. Sockets that are not needed any more leave: they complete no new connections, and the
        distributor closes them when their queues are empty. Raises BindError where another process took an address
        since it was bound; then nothing has changed, and nothing new stays bound."""
        kept = {group.number for group in self._sockets.groups}
        for group in sorted(self._all, key=lambda group: group.number in kept):  # first what may fail
            try:
                for listener in group.listeners:
                    listener.sock.listen(self._backlog)
            except OSError as error:
                address = group.first.address
                self.rollback()
                raise BindError(address, self._key, error.strerror or str(error)) from error
        for group in self._all:
            inherited = not group.first.owned and len(group.listeners) > 1  # the host before us has steered, perhaps
            if group.steered or inherited:
                steer(group.first.sock, len(group.listeners))
        for path, mode, owner in self.access:
            try:
                if owner != -1:
                    os.chown(path, -1, owner)
                os.chmod(path, mode)
            except OSError as error:
                logger.warning("the access to unix:%s stays as it is: %s", path, error, extra={"key": self._key})
        self.bound = []
        self._sockets.replace(self.groups, self.tls)

    def rollback(self) -> None:
        """Close what was bound."""
        for listener in self.bound:
            listener.close()
        self.bound = []
        self._sockets.released()

    def free_number(self) -> int:
        """A number that no listener has. Raises BindError."""
        number = next((number for number in range(_MOST) if number not in self.numbers), None)
        if number is None:
            raise BindError("another address", self._key, f"a host with workers has at most {_MOST} listeners")
        self.numbers.add(number)
        return number

    @property
    def listeners(self) -> list[Listener]:
        return [listener for group in self._all for listener in group.listeners]

    @property
    def _all(self) -> list[Group]:
        return [group for groups in self.groups.values() for group in groups]
