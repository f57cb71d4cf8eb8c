"""Checks of the paths of Unix sockets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.problems import KeyPath, Severity
from pywatt_host.manifest.values import UnixAddress
from pywatt_host.manifest.values.addresses import MAX_UNIX_PATH

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]


class SocketChecks:
    """Reports with `add` paths that are longer than the address of a Unix socket can be."""

    def __init__(self, manifest: Manifest, add: Add) -> None:
        self._manifest = manifest
        self._add = add

    def check(self) -> None:
        for path, name in self._sockets():
            try:
                length = len(os.fsencode(self._manifest.resolve(name)))
            except UnicodeEncodeError:
                length = MAX_UNIX_PATH + 1
            if length > MAX_UNIX_PATH:
                message = f"the path of a Unix socket has at most {MAX_UNIX_PATH} bytes, and this one has {length}"
                hint = "use a shorter path, such as /run/users.sock; a relative path counts with the manifest's folder"
                self._add(path, "address", message, hint, "error")

    def _sockets(self) -> Iterator[tuple[KeyPath, str]]:
        server, ipc = self._manifest.server, self._manifest.channels.ipc
        for number, address in enumerate(server.listen):
            if isinstance(address, UnixAddress):
                yield ("server", "listen", number), address.path
        for number, address in enumerate(server.admin.listen if server.admin is not None else ()):
            if isinstance(address, UnixAddress):
                yield ("server", "admin", "listen", number), address.path
        if server.control not in ("auto", "off"):
            yield ("server", "control"), server.control
        for key in ("listen", "connect"):
            name = getattr(ipc, key, None)
            if name is not None:
                yield ("channels", "ipc", key), name
        for number, service in enumerate(self._manifest.services.static):
            if service.address.startswith("unix:"):
                yield ("services", "static", number, "address"), service.address.removeprefix("unix:")
