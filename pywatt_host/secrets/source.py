"""What every source of secrets looks like, and what several of them share."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from pywatt_host.exceptions import SecretError

MOST_OCTETS = 1024**2  # of one secret, and of a file with many


class SecretSource(Protocol):
    """`label` names it in errors, such as `directory /run/secrets`. `watched`: its values may change by themselves, and
    `identity` tells cheaply whether they may have."""

    label: str
    watched: bool

    async def get(self, name: str) -> str | None:
        """The value; None where it has none of that name. Raises SecretError where it cannot be asked."""

    def identity(self) -> object:
        """Something that is equal as long as nothing has changed; a float where only asking can tell, which is done
        each `secrets.interval`. Called in a thread."""


def stat_of(path: Path) -> tuple[int, ...] | None:
    """What changes with a file's content: device, inode, time of change and size; None where it is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def read_text(path: Path, label: str, *, private: bool = False) -> str | None:
    """A small file of text; links are followed. None where there is no such file. `private`: refused unless it belongs
    to this user or root and nobody else may read it. Raises SecretError."""
    try:
        # Without O_NONBLOCK, a named pipe that nobody writes to would stop the start for good.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), label, private)
            with open(descriptor, "rb", closefd=False) as file:
                octets = file.read(MOST_OCTETS + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretError(f"{label} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if len(octets) > MOST_OCTETS:
        raise SecretError(f"{label} has more than 1 MiB")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise SecretError(f"{label} is not UTF-8 text") from None


def _check(status: os.stat_result, label: str, private: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise SecretError(f"{label} is not a file")
    if not private:
        return
    if status.st_uid not in (os.geteuid(), 0):
        raise SecretError(f"{label} belongs to another user")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise SecretError(f"{label} has the mode {mode:04o}, so that others can use it: chmod 600 it")


def without_last_newline(text: str) -> str:
    """Editors and `echo` put one at the end, which is no part of the secret."""
    return text.removesuffix("\n").removesuffix("\r")
