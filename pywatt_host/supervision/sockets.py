"""The listening sockets of `dev`: bound once, on loopback only, and handed to one child after the other."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pywatt_host.manifest import Manifest
from pywatt_host.manifest.values import Address, TcpAddress, UnixAddress
from pywatt_host.net.listeners import Listener, bind

_HOST, _PORT = "127.0.0.1", 8080


def is_local(address: Address) -> bool:
    """Whether nobody but this machine reaches it. Sockets that were handed down are not looked into: no."""
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


def localised(addresses: Iterable[Address], key: str) -> tuple[tuple[Address, ...], list[str]]:
    """The addresses with every one that is not local replaced by 127.0.0.1 and its port; and a line for each."""
    found: list[Address] = []
    said: list[str] = []
    for address in addresses:
        local = address
        if not is_local(address):
            local = TcpAddress(_HOST, address.port if isinstance(address, TcpAddress) else _PORT)
            said.append(f"{key}: {address} is not a loopback address; dev listens on {local}")
        if local not in found or (isinstance(local, TcpAddress) and local.port == 0):
            found.append(local)
    return tuple(found), said


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a manifest wants `dev` to listen, made local; `replaced` has a line for each address that was not."""

    public: tuple[Address, ...]
    admin: tuple[Address, ...]
    directory: Path
    backlog: int
    replaced: tuple[str, ...] = ()


def wanted_by(manifest: Manifest) -> Wanted:
    server = manifest.server
    public, said = localised(server.listen, "server.listen")
    admin, more = localised(server.admin.listen if server.admin is not None else (), "server.admin.listen")
    return Wanted(public, admin, manifest.directory, server.limits.backlog, (*said, *more))


class HeldSockets:
    """Bound and listening sockets; what connects waits in their queues until somebody accepts. An address stays bound
    as long as it is wanted."""

    def __init__(self) -> None:
        self._held: dict[_Place, list[Listener]] = {}

    def open(self, wanted: Wanted) -> bool:
        """Listen where it is wanted, and nowhere else; whether anything has changed. Raises BindError, with everything
        as it was."""
        places = [*_places("server.listen", wanted.public), *_places("server.admin.listen", wanted.admin)]
        bound: dict[_Place, list[Listener]] = {}
        try:
            for place in places:
                if place not in self._held:
                    key, address, _ = place
                    bound[place] = bind([address], key=key, directory=wanted.directory, backlog=wanted.backlog)
                    for listener in bound[place]:
                        listener.sock.listen(wanted.backlog)
        except BaseException:
            _close(bound)
            raise
        left = {place: listeners for place, listeners in self._held.items() if place not in places}
        _close(left)
        self._held = {place: self._held.get(place) or bound[place] for place in places}
        return bool(bound or left)

    @property
    def all(self) -> list[Listener]:
        return [listener for listeners in self._held.values() for listener in listeners]

    def by_key(self) -> dict[str, list[Listener]]:
        """The manifest's key to the sockets that belong to it."""
        found: dict[str, list[Listener]] = {}
        for (key, _, _), listeners in self._held.items():
            found.setdefault(key, []).extend(listeners)
        return found

    def overrides(self) -> list[str]:
        """What `--set` says so that an application sees where it is served, with real ports."""
        return [
            f"{key}={json.dumps([listener.address.removeprefix('http://') for listener in listeners])}"
            for key, listeners in self.by_key().items()
        ]

    def close(self) -> None:
        _close(self._held)
        self._held = {}


# The manifest's key, the address, and which of those that are alike (port 0 may stand there several times).
_Place = tuple[str, Address, int]


def _places(key: str, addresses: Sequence[Address]) -> list[_Place]:
    return [(key, address, addresses[:number].count(address)) for number, address in enumerate(addresses)]


def _close(held: Mapping[_Place, Iterable[Listener]]) -> None:
    for listeners in held.values():
        for listener in listeners:
            listener.close()
