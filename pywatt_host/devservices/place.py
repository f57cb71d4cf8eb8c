"""Where private servers live: `.pywatt/dev` of a folder, and who uses them right now."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Place:
    """One folder's. Its users hold a shared lock as long as they live, so that none of them is forgotten or counted
    twice, however it ends; who decides anything holds the other lock alone."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.absolute() / ".pywatt" / "dev"
        self._users: int | None = None

    @property
    def used(self) -> bool:
        """Whether private servers have ever been started here."""
        return self.root.is_dir()

    def make(self) -> None:
        """Raises OSError."""
        # Others may pass through, but not look: PostgreSQL runs as somebody else where we are root.
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        ignore = self.root.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Nobody else starts or stops anything meanwhile. Raises OSError."""
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def join(self) -> None:
        """Use it, until `leave` or the end of this process; decide while you do so. Raises OSError."""
        if self._users is None:
            self._users = os.open(self.root / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)

    def leave(self) -> bool:
        """Whether nobody uses it any more; decide while you ask."""
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
