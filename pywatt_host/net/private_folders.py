"""Folders that only this user may change: for sockets, tokens and private servers.

In a folder that another user can write to, that user could put a socket, a program or a symbolic link in place of ours.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

PRIVATE = 0o700
HINT = "it must belong to this user, with mode 0700"

_PASSABLE = 0o710
_WRITABLE_BY_OTHERS = 0o022


def make_private(folder: Path) -> str:
    """Create a folder with mode 0700, unless there is one. Returns why the folder is not safe to use, or an empty text.
    Raises OSError if it cannot be created."""
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    return unsafe(folder)


def make_exclusive(folder: Path, group: int | None = None) -> str:
    """Create a folder with mode 0700 in a place where other users may create folders too, unless there is one. Returns
    why it is not safe to use, or an empty text. Raises OSError if it cannot be created or opened.

    With `group`, the members of that group may pass through it without listing it: mode 0710.
    """
    reason = replaceable(folder.parent)
    if reason:
        return f"{folder.parent}: {reason}"
    try:
        os.mkdir(folder, PRIVATE)  # one call, so that no other user can come between
    except FileExistsError:
        reason = _of_another_kind(folder.lstat())
        if reason:
            return reason
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        ours = PRIVATE if group is None or status.st_gid != group else _PASSABLE
        reason = _of_another_user(status) or (f"other users may access it (mode {mode:04o})" if mode & ~ours else "")
        if not reason and group is not None:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, _PASSABLE)
        return reason
    finally:
        os.close(descriptor)


def unsafe(folder: Path) -> str:
    """Why another user may change what is in a folder, or an empty text. The folder must not be a symbolic link, since
    another user may have made it. Raises OSError if there is no folder."""
    status = folder.lstat()
    return _of_another_kind(status) or _of_another_user(status) or _writable(status)


def replaceable(folder: Path) -> str:
    """Why another user may replace a file of ours in a folder, or an empty text. Links are followed, root may own the
    folder, and in a folder with the sticky bit users cannot replace the files of others. Raises OSError if there is no
    folder."""
    status = folder.stat()
    owner = "" if status.st_uid == 0 else _of_another_user(status)
    return owner or ("" if status.st_mode & stat.S_ISVTX else _writable(status))


def _of_another_kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return "it is a symbolic link"
    return "" if stat.S_ISDIR(status.st_mode) else "it is not a folder"


def _of_another_user(status: os.stat_result) -> str:
    return "" if status.st_uid == os.geteuid() else f"it belongs to another user (uid {status.st_uid})"


def _writable(status: os.stat_result) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"other users may write to it (mode {mode:04o})" if mode & _WRITABLE_BY_OTHERS else ""
