"""The interface of all sources of secrets, and the functions that several of them share."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from pywatt_host.exceptions import SecretError

MAX_BYTES = 1024**2  # of one secret, and of a file with many secrets


class SecretSource(Protocol):
    """Something that holds secrets.

    `label` names the source in errors, such as `directory /run/secrets`. `watched` is true if the values may change by
    themselves; `identity` then tells cheaply whether they may have changed.
    """

    label: str
    watched: bool

    async def get(self, name: str) -> str | None:
        """Return the value of the secret `name`, or None if the source does not have it. Raises SecretError if the
        source cannot be read."""

    def identity(self) -> object:
        """Return an object that is equal as long as nothing has changed. Called in a thread.

        A float means that only reading the source can tell, which the store then does every `secrets.interval`.
        """


def stat_of(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file's content: device, inode, times and size. None if the file does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def read_text(path: Path, label: str, *, private: bool = False) -> str | None:
    """Return the text of a small file, or None if there is no such file. Symbolic links are followed.

    With `private`, the file is refused unless it belongs to this user or to root and no other user has access to it.
    Raises SecretError; `label` names the file in it.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe that has no writer would block the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), label, private)
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SecretError(f"{label} could not be read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > MAX_BYTES:
        raise SecretError(f"{label} is larger than 1 MiB")
    try:
        return data.decode()
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
        raise SecretError(f"{label} has mode {mode:04o}, which lets other users access it; run chmod 600 on it")


def without_last_newline(text: str) -> str:
    """Remove one line end from the end of the text. Editors and `echo` add it; it is not part of the secret."""
    return text.removesuffix("\n").removesuffix("\r")
