"""The sockets of the frame channels of a workspace, in a private folder."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pywatt_host.exceptions import BindError
from pywatt_host.manifest.values import TcpAddress, UnixAddress
from pywatt_host.net.listeners import Listener, bind
from pywatt_host.net.private_folders import HINT, make_private
from pywatt_host.runtime.control import control_folders

_SUFFIX = ".ipc"
_MAX_PATH_LENGTH = 100  # bytes of the path of a Unix socket


def bind_channels(
    kinds: frozenset[str], name: str, directory: Path, environ: Mapping[str, str]
) -> dict[str, list[Listener]]:
    """Bind the listeners of the frame channels in `kinds`, by channel. Raises BindError; nothing stays bound then."""
    found: dict[str, list[Listener]] = {}
    try:
        if "ipc" in kinds:
            path = _folder(directory, environ, name) / f"{name}-{os.getpid()}{_SUFFIX}"
            found["ipc"] = bind([UnixAddress(os.fspath(path))], key="channel: ipc", directory=directory, backlog=128)
        if "tcp" in kinds:
            found["tcp"] = bind([TcpAddress("127.0.0.1", 0)], key="channel: tcp", directory=directory, backlog=128)
    except BaseException:
        for listeners in found.values():
            for listener in listeners:
                listener.close()
        raise
    return found


def _folder(directory: Path, environ: Mapping[str, str], name: str) -> Path:
    """The folder of the control sockets, or, where its path is too long for a socket, a folder of this user among the
    temporary files. Sockets of processes that were killed are removed from it."""
    folder = control_folders(directory, environ)[0]
    if len(os.fsencode(folder / f"{name}-{os.getpid()}{_SUFFIX}")) > _MAX_PATH_LENGTH:
        folder = Path(tempfile.gettempdir()) / f"pywatt-{os.getuid()}"
    try:
        reason = make_private(folder)
    except OSError as error:
        raise BindError(f"unix:{folder}", "channel: ipc", error.strerror or str(error)) from error
    if reason:
        raise BindError(f"unix:{folder}", "channel: ipc", f"the folder is not private: {reason}", HINT)
    for left_over in _dead(folder):
        left_over.unlink(missing_ok=True)
    return folder


def _dead(folder: Path) -> Iterator[Path]:
    """The sockets in a folder that no process listens on any more."""
    for path in folder.glob(f"*{_SUFFIX}"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(os.fspath(path))
            except ConnectionRefusedError:
                yield path
            except OSError:
                continue
