"""Listening sockets.

The host binds them before anything else starts. The real address is then known, and an address that is in use is an
error before the host has started in part.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress
from pywatt_host.manifest.values.addresses import MAX_UNIX_PATH
from pywatt_host.net.packet_filters import drop_syn

if TYPE_CHECKING:
    from pywatt_host.net.tls_material import ListenerTls

_FIRST_SYSTEMD_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)


@dataclass(slots=True)
class Listener:
    """A bound socket. `owned` says that the host bound it: no other process accepts from it, and its Unix path may be
    removed. `number` tells the listeners of a host apart where connections are passed between its processes."""

    sock: socket.socket
    owned: bool
    path: Path | None = None
    _identity: tuple[int, int] | None = field(default=None)
    number: int = 0
    tls: ListenerTls | None = None  # the terms of its connections, where they are not plain

    @property
    def address(self) -> str:
        """The address for clients, with the port that was really bound: `http://HOST:PORT`, `https://HOST:PORT` or
        `unix:PATH`."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{name.decode() if isinstance(name, bytes) else name}"
        host, port = name[0], name[1]
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def secure(self, tls: ListenerTls | None) -> None:
        """Take connections with these terms from now on; None: plain ones. A Unix socket always takes plain ones."""
        self.tls = tls if self.sock.family != socket.AF_UNIX else None

    def refuse_new(self) -> None:
        """Make the kernel complete no new connections; connections that are complete can still be accepted.

        For TCP on Linux, a filter drops SYN packets, so that a client retries and then finds a closed port. For Unix
        sockets, the path is removed. Elsewhere nothing happens, and the listener must be closed right after its queue
        is empty.
        """
        self.remove_path()
        if self.owned and self.sock.family != socket.AF_UNIX:
            drop_syn(self.sock)  # where that fails, the listener closes right after its queue is empty

    def remove_path(self) -> None:
        """Remove the Unix path, if it still is the socket that the host made."""
        if self.path is None or self._identity is None:
            return
        try:
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()
        except OSError:
            pass  # it is gone already, or the host may no longer remove it
        self._identity = None

    def close(self) -> None:
        self.remove_path()
        self.sock.close()


def bind(
    addresses: Iterable[Address],
    *,
    key: str,
    directory: Path,
    backlog: int,
    environ: dict[str, str] | None = None,
    reuse_port: bool = False,
) -> list[Listener]:
    """Bind all of `addresses`, or none. The sockets accept no connection before `listen()` is called on them.

    `key` is the manifest key for errors. Unix paths are relative to `directory`. With `reuse_port`, other sockets of
    this user that have the option SO_REUSEPORT may have the address. Raises BindError.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners += _bind_one(address, key, directory, environ if environ is not None else {}, reuse_port)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_one(address: Address, key: str, directory: Path, environ: dict[str, str], reuse_port: bool) -> list[Listener]:
    match address:
        case TcpAddress():
            return _bind_tcp(address, key, reuse_port)
        case UnixAddress():
            return [_bind_unix(address, key, directory)]
        case FdAddress():
            return [_inherit(address.fd, str(address), key)]
        case SystemdAddress():
            return _from_systemd(key, environ)


def share(listener: Listener) -> Listener:
    """Bind another socket to the address of a TCP listener, with SO_REUSEPORT: the kernel chooses one of them for each
    new connection, once both listen. Raises OSError, as where another user made the first socket."""
    first = listener.sock
    before = first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    allow_sharing(first)
    sock = socket.socket(first.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        allow_sharing(sock)
        if first.family == socket.AF_INET6:
            only = first.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind(first.getsockname())
    except BaseException:
        sock.close()
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, before)
        raise
    sock.setblocking(False)
    return Listener(sock, owned=True)


def on_port_of(address: Address, listeners: Iterable[Listener]) -> list[Listener]:
    """Those of these listeners that have the port of an address, on any host."""
    if not isinstance(address, TcpAddress):
        return []
    return [
        listener
        for listener in listeners
        if listener.sock.family != socket.AF_UNIX and listener.sock.getsockname()[1] == address.port
    ]


def allow_sharing(sock: socket.socket) -> None:
    """Let other sockets of this user have the same address. Raises OSError."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bind_tcp(address: TcpAddress, key: str, reuse_port: bool) -> list[Listener]:
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        if address.host:
            raise BindError(str(address), key, f"no such host ({error.strerror})") from error
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("0.0.0.0", address.port))]
    # One socket for each family, so that the address of a client is never an IPv4 address mapped to IPv6.
    families = {entry[0]: entry[4] for entry in reversed(found)}
    listeners: list[Listener] = []
    port = address.port
    for family, target in sorted(families.items()):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                allow_sharing(sock)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((target[0], port, *target[2:]))
        except OSError as error:
            sock.close()
            if listeners and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # the name has addresses of two families, and this machine supports only one
            for listener in listeners:
                listener.close()
            raise _tcp_error(address, key, error) from error
        sock.setblocking(False)
        port = port or sock.getsockname()[1]  # port 0: the same free port on every family
        listeners.append(Listener(sock, owned=True))
    return listeners


def _tcp_error(address: TcpAddress, key: str, error: OSError) -> BindError:
    if error.errno == errno.EADDRINUSE:
        hint = "another process listens there; port 0 takes a free port"
        return BindError(str(address), key, "the address is in use", hint)
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = "ports below 1024 need a privilege, or a socket from systemd"
        return BindError(str(address), key, "permission denied", hint)
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(str(address), key, "it is not an address of this machine")
    return BindError(str(address), key, error.strerror or str(error))


def _bind_unix(address: UnixAddress, key: str, directory: Path) -> Listener:
    path = directory / address.path
    shown = f"unix:{path}"
    if len(os.fsencode(path)) > MAX_UNIX_PATH:
        raise BindError(shown, key, f"the path is too long for a Unix socket (at most {MAX_UNIX_PATH} bytes)")
    group = group_id(address, shown, key)
    _remove_stale(path, shown, key)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # no other user may connect before the mode and the group are set
        try:
            sock.bind(os.fspath(path))
        finally:
            os.umask(mask)
        status = path.lstat()
        if group != -1:
            os.chown(path, -1, group)
        os.chmod(path, address.mode)
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            path.unlink(missing_ok=True)
        hint = "the directory does not exist" if error.errno == errno.ENOENT else ""
        raise BindError(shown, key, error.strerror or str(error), hint) from error
    sock.setblocking(False)
    return Listener(sock, owned=True, path=path, _identity=(status.st_dev, status.st_ino))


def group_id(address: UnixAddress, shown: str, key: str) -> int:
    """The number of the group that owns a Unix socket; -1 where the address names none. Raises BindError."""
    try:
        return grp.getgrnam(address.group).gr_gid if address.group is not None else -1
    except KeyError:
        raise BindError(shown, key, f"there is no group {address.group!r}") from None


def _remove_stale(path: Path, shown: str, key: str) -> None:
    """Remove a socket on which no process listens. A socket in use, and a file that is not a socket, are errors."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(shown, key, error.strerror or str(error)) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise BindError(shown, key, "the path exists and is not a socket", "remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            message = f"could not find out whether the socket is in use: {error.strerror or error}"
            raise BindError(shown, key, message) from error
    raise BindError(shown, key, "the socket is in use", "another process listens there")


def _inherit(fd: int, shown: str, key: str) -> Listener:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(shown, key, f"descriptor {fd} is not a socket ({error.strerror})") from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise BindError(shown, key, f"descriptor {fd} is not a listening stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)  # processes that the application starts must not keep the address
    return Listener(sock, owned=False)


def _from_systemd(key: str, environ: dict[str, str]) -> list[Listener]:
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        raise BindError("systemd", key, "systemd passed no socket", "a .socket unit must start this process")
    return [_inherit(fd, "systemd", key) for fd in range(_FIRST_SYSTEMD_FD, _FIRST_SYSTEMD_FD + int(count))]
