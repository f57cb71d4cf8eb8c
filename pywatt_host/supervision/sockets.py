"""The listening sockets of `dev`: bound once, on loopback addresses only, and inherited by one child after another."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.manifest import Manifest
from pywatt_host.manifest.model.base import complete
from pywatt_host.manifest.model.tls import OwnTls
from pywatt_host.manifest.values import Address, TcpAddress, UnixAddress
from pywatt_host.net.listeners import Listener, bind

_LOOPBACK_HOST = "127.0.0.1"
_DEFAULT_PORT = 8080  # in place of an inherited socket, which names no port


def is_local(address: Address) -> bool:
    """Whether only this machine can connect to an address. Inherited sockets count as not local, since their address is
    not known here."""
    if isinstance(address, UnixAddress):
        return True
    if not isinstance(address, TcpAddress):
        return False
    if address.host == "localhost" or address.host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False


def make_local(addresses: Iterable[Address], key: str) -> tuple[tuple[Address, ...], list[str]]:
    """Replace every address that is not local by 127.0.0.1 with the same port. `key` is the manifest key of the
    addresses. Returns the addresses, and a message for each address that was replaced."""
    found: list[Address] = []
    messages: list[str] = []
    for address in addresses:
        local = address
        if not is_local(address):
            local = TcpAddress(_LOOPBACK_HOST, address.port if isinstance(address, TcpAddress) else _DEFAULT_PORT)
            messages.append(f"{key}: {address} is not a loopback address; dev listens on {local}")
        if local not in found or (isinstance(local, TcpAddress) and local.port == 0):
            found.append(local)
    return tuple(found), messages


@dataclass(frozen=True, slots=True)
class ListenAddresses:
    """The local addresses on which `dev` listens for a manifest. `messages` has a line for each address of the manifest
    that was replaced, since it is not local. `tls` has what each public address says about TLS itself, if any does."""

    public: tuple[Address, ...]
    admin: tuple[Address, ...]
    directory: Path
    backlog: int
    messages: tuple[str, ...] = ()
    tls: tuple[OwnTls | None, ...] = ()


def listen_addresses(manifest: Manifest) -> ListenAddresses:
    """The addresses on which `dev` listens for a manifest."""
    server = manifest.server
    public, messages = make_local(server.listen, "server.listen")
    admin, more = make_local(server.admin.listen if server.admin is not None else (), "server.admin.listen")
    tls: list[OwnTls | None] = []
    for number in range(len(server.listen)):
        if len(make_local(server.listen[: number + 1], "")[0]) > len(tls):  # this address is not one of those before
            tls.append(server.own_tls(number))
    every = (*messages, *more)
    return ListenAddresses(public, admin, manifest.directory, server.limits.backlog, every, tuple(tls))


class ListenerSet:
    """Bound and listening sockets. An address stays bound as long as each manifest asks for it. New connections wait in
    the queue of their socket until a process accepts them."""

    def __init__(self) -> None:
        self._listeners: dict[_Slot, list[Listener]] = {}
        self._tls: dict[_Slot, OwnTls] = {}  # what an address says about TLS itself

    def update(self, addresses: ListenAddresses) -> bool:
        """Listen on these addresses and on no others. Returns whether anything has changed. Raises BindError; then
        nothing has changed."""
        slots = [*_slots("server.listen", addresses.public), *_slots("server.admin.listen", addresses.admin)]
        bound: dict[_Slot, list[Listener]] = {}
        try:
            for slot in slots:
                if slot not in self._listeners:
                    key, address, _ = slot
                    bound[slot] = bind([address], key=key, directory=addresses.directory, backlog=addresses.backlog)
                    for listener in bound[slot]:
                        listener.sock.listen(addresses.backlog)
        except BaseException:
            _close(bound)
            raise
        dropped = {slot: listeners for slot, listeners in self._listeners.items() if slot not in slots}
        _close(dropped)
        self._listeners = {slot: self._listeners.get(slot) or bound[slot] for slot in slots}
        self._tls = {slot: tls for slot, tls in zip(slots, addresses.tls, strict=False) if tls is not None}
        return bool(bound or dropped)

    @property
    def all(self) -> list[Listener]:
        return [listener for listeners in self._listeners.values() for listener in listeners]

    def by_key(self) -> dict[str, list[Listener]]:
        """The sockets by the manifest key of their addresses."""
        found: dict[str, list[Listener]] = {}
        for (key, _, _), listeners in self._listeners.items():
            found.setdefault(key, []).extend(listeners)
        return found

    def overrides(self) -> list[str]:
        """The values for `--set` that tell the child its addresses, with the real ports."""
        found: dict[str, list[Any]] = {}
        for slot, listeners in self._listeners.items():
            for listener in listeners:
                address: Any = listener.address.removeprefix("http://")
                tls = self._tls.get(slot)
                if tls is not None:
                    address = {"address": address, "tls": _written(tls)}
                found.setdefault(slot[0], []).append(address)
        return [f"{key}={json.dumps(addresses)}" for key, addresses in found.items()]

    def close(self) -> None:
        """Close every socket."""
        _close(self._listeners)
        self._listeners = {}


def _written(tls: OwnTls) -> Any:
    """TLS settings as a manifest has them."""
    if tls == "off":
        return tls
    complete(type(tls))
    return tls.model_dump(mode="json", exclude_unset=True)


# The manifest key, the address, and a number that tells equal addresses apart: a manifest may list port 0 twice.
_Slot = tuple[str, Address, int]


def _slots(key: str, addresses: Sequence[Address]) -> list[_Slot]:
    return [(key, address, addresses[:number].count(address)) for number, address in enumerate(addresses)]


def _close(listeners_by_slot: Mapping[_Slot, Iterable[Listener]]) -> None:
    for listeners in listeners_by_slot.values():
        for listener in listeners:
            listener.close()
