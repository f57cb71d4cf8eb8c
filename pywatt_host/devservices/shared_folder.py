"""The folder `.pywatt/dev`, in which private servers keep their data, and the processes that use it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pywatt_host.net.private_folders import unsafe


class SharedFolder:
    """The private servers' folder in one project folder, shared by several processes.

    Every process that uses it holds a shared lock on the file `users`. The system releases that lock when the process
    ends in any way, so that a process is never counted twice or forgotten. A process that starts or stops servers holds
    an exclusive lock on the file `lock` meanwhile.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute() / ".pywatt" / "dev"
        self._users: int | None = None

    @property
    def exists(self) -> bool:
        """Whether private servers have ever been started here, in a folder that only this user may change."""
        try:
            return not any(unsafe(folder) for folder in (self.root.parent, self.root))
        except OSError:
            return False

    def create(self) -> None:
        """Create the folder if it does not exist. Raises OSError, also if other users may change what is in it."""
        for folder in (self.root.parent, self.root):
            # Other users may pass through it without reading it: under root, PostgreSQL runs as another user.
            folder.mkdir(mode=0o711, exist_ok=True)
            require_private(folder, unsafe(folder))
        ignore = self.root.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While the block runs, no other process starts or stops a server. Raises OSError."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def join(self) -> None:
        """Become a user of the folder until `leave` or the end of this process. Call it within `locked`. Raises
        OSError."""
        if self._users is None:
            self._users = os.open(self.root / "users", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Stop being a user of the folder. Call it within `locked`. Returns whether this process was the last user."""
        if self._users is None:
            return False
        descriptor, self._users = self._users, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True


def require_private(folder: Path, reason: str) -> None:
    """Raise PermissionError if there is a reason why a folder is not safe to use."""
    if reason:
        raise PermissionError(f"the folder {folder} is not private: {reason}; remove it, or make it yours alone")
