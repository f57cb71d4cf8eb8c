"""Listening sockets: bound by us before anything else starts, so that the real address is known and a taken one is an
error and not a half-started host."""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterable
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass, field
from pathlib import Path

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import Address, FdAddress, SystemdAddress, TcpAddress, UnixAddress

_FIRST_SYSTEMD_FD = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h


@dataclass(slots=True)
class Listener:
    """A bound socket and how it came to be. `owned`: nobody else accepts from it, and its Unix path is ours."""

    sock: socket.socket
    owned: bool
    path: Path | None = None
    _identity: tuple[int, int] | None = field(default=None)

    @property
    def address(self) -> str:
        """Where a client finds it, with the port really bound: `http://HOST:PORT` or `unix:PATH`."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"unix:{name.decode() if isinstance(name, bytes) else name}"
        host, port = name[0], name[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def refuse_new(self) -> None:
        """Let the kernel complete no further connection, while those that are complete can still be accepted.

        Linux and TCP: a filter drops SYNs, so that a client tries again and then meets a closed port. Unix: the path
        goes. Elsewhere nothing is done, and the listener closes right after its queue was found empty.
        """
        self.remove_path()
        if self.owned and self.sock.family != socket.AF_UNIX and sys.platform == "linux":
            self._drop_syn()

    def _drop_syn(self) -> None:
        program = [  # classic BPF over the TCP header: drop where SYN is set and ACK is not
            (0x30, 0, 0, 13),  # A = octet 13, the flags
            (0x54, 0, 0, 0x12),  # A &= SYN | ACK
            (0x15, 0, 1, 0x02),  # if A == SYN ...
            (0x06, 0, 0, 0),  # ... drop
            (0x06, 0, 0, 0xFFFFFFFF),  # else keep
        ]
        code = create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in program))
        filter_program = struct.pack("HL", len(program), addressof(code))
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_program)
        except OSError:
            return  # a kernel or sandbox without it: the listener closes right after its queue was found empty

    def remove_path(self) -> None:
        """Remove the Unix path, where it still is the socket that we made."""
        if self.path is None or self._identity is None:
            return
        try:
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self.path.unlink()
        except OSError:
            pass  # gone already, or not ours to remove any more
        self._identity = None

    def close(self) -> None:
        self.remove_path()
        self.sock.close()


def bind(
    addresses: Iterable[Address], *, key: str, directory: Path, backlog: int, environ: dict[str, str] | None = None
) -> list[Listener]:
    """Bind all of `addresses`, or none. Nothing is accepted before `listen()` is called on the sockets.

    `key` is the manifest key that errors name; `directory` is what Unix paths are relative to. Raises BindError.
    """
    listeners: list[Listener] = []
    try:
        for address in addresses:
            listeners += _bind_one(address, key, directory, environ if environ is not None else {})
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_one(address: Address, key: str, directory: Path, environ: dict[str, str]) -> list[Listener]:
    match address:
        case TcpAddress():
            return _bind_tcp(address, key)
        case UnixAddress():
            return [_bind_unix(address, key, directory)]
        case FdAddress():
            return [_inherit(address.fd, str(address), key)]
        case SystemdAddress():
            return _from_systemd(key, environ)


def _bind_tcp(address: TcpAddress, key: str) -> list[Listener]:
    try:
        found = socket.getaddrinfo(
            address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )
    except socket.gaierror as error:
        if address.host:
            raise BindError(str(address), key, f"no such host ({error.strerror})") from error
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("0.0.0.0", address.port))]
    # One socket a family, also for every interface: a client's address is then never an IPv4 one in IPv6 clothes.
    families = {entry[0]: entry[4] for entry in reversed(found)}
    listeners: list[Listener] = []
    port = address.port
    for family, target in sorted(families.items()):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((target[0], port, *target[2:]))
        except OSError as error:
            sock.close()
            if listeners and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name with addresses of two families, one of which this machine does not have
            for listener in listeners:
                listener.close()
            raise _tcp_error(address, key, error) from error
        sock.setblocking(False)
        port = port or sock.getsockname()[1]  # port 0: the same free port on every family
        listeners.append(Listener(sock, owned=True))
    return listeners


def _tcp_error(address: TcpAddress, key: str, error: OSError) -> BindError:
    if error.errno == errno.EADDRINUSE:
        return BindError(str(address), key, "the address is in use", "another process listens there; port 0 takes any")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BindError(
            str(address), key, "not permitted", "ports below 1024 need a privilege, or a socket of systemd"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return BindError(str(address), key, "not an address of this machine")
    return BindError(str(address), key, error.strerror or str(error))


def _bind_unix(address: UnixAddress, key: str, directory: Path) -> Listener:
    path = directory / address.path
    shown = f"unix:{path}"
    if len(os.fsencode(path)) > 100:  # sun_path is 108 octets on Linux, 104 on macOS
        raise BindError(shown, key, "the path is too long for a Unix socket (at most 100 octets)")
    try:
        group = grp.getgrnam(address.group).gr_gid if address.group is not None else -1
    except KeyError:
        raise BindError(shown, key, f"there is no group {address.group!r}") from None
    _remove_stale(path, shown, key)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # nobody else may connect before mode and group are what was asked for
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
        hint = "the folder does not exist" if error.errno == errno.ENOENT else ""
        raise BindError(shown, key, error.strerror or str(error), hint) from error
    sock.setblocking(False)
    return Listener(sock, owned=True, path=path, _identity=(status.st_dev, status.st_ino))


def _remove_stale(path: Path, shown: str, key: str) -> None:
    """Remove a socket that nobody answers on; one that lives, and what is no socket, is never touched."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise BindError(shown, key, error.strerror or str(error)) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise BindError(shown, key, "there is something else than a socket", "remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise BindError(shown, key, f"cannot tell whether it is in use: {error.strerror or error}") from error
    raise BindError(shown, key, "the socket is in use", "another process listens there")


def _inherit(fd: int, shown: str, key: str) -> Listener:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise BindError(shown, key, f"descriptor {fd} is no socket ({error.strerror})") from error
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise BindError(shown, key, f"descriptor {fd} is not a listening stream socket")
    sock.setblocking(False)
    sock.set_inheritable(False)  # what the application starts must not keep the address
    return Listener(sock, owned=False)


def _from_systemd(key: str, environ: dict[str, str]) -> list[Listener]:
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        raise BindError("systemd", key, "systemd handed over no socket", "a .socket unit must start this process")
    return [_inherit(fd, "systemd", key) for fd in range(_FIRST_SYSTEMD_FD, _FIRST_SYSTEMD_FD + int(count))]
