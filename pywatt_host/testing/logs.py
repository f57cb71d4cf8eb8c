"""What a module logs, kept for the test beside what pytest itself takes down."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.logs import LEVELS, LogStream, RecordFormatter, StreamHandler

# Whose code runs: tasks, and threads that they hand work to, have it of the module that began them.
_owner: ContextVar[KeptLogs | None] = ContextVar("pywatt_testing_owner", default=None)


class KeptLogs(LogStream):
    """JSON lines in memory, secrets masked as in a running host. `thread` is the test's own, where the module has
    another."""

    def __init__(self, thread: int | None) -> None:
        super().__init__(-1)
        self._kept: list[bytes] = []
        self._thread = thread
        self._least = logging.NOTSET
        self._least_by_name: dict[str, int] = {}

    def write(self, data: bytes, lines: int = 1) -> None:
        """Keep `lines` whole lines."""
        self._kept.append(self.masked(data))

    def records(self) -> list[dict[str, Any]]:
        """All so far. A line that is no JSON, since the manifest wants another form, is the `message` of a record."""
        lines = b"".join(self._kept[:]).decode("utf-8", "replace").splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line} for line in lines]

    def tail(self, most: int = 20) -> str:
        """The newest lines."""
        return b"".join(self._kept[-most:]).decode("utf-8", "replace").rstrip("\n")

    @contextmanager
    def taking(self, settings: Logging) -> Iterator[None]:
        """Take what this module logs; what code logs that belongs to no module is kept, too, unless it runs in the
        test's thread. Whoever listens already, such as pytest, goes on listening."""
        self._least = LEVELS[settings.level]
        self._least_by_name = {name: LEVELS[level] for name, level in settings.loggers.items()}
        handler = StreamHandler(self, RecordFormatter("json", settings.redact, False))
        handler.addFilter(self._is_wanted)
        root = logging.getLogger()
        loggers = {name: logging.getLogger(name) for name in settings.loggers}
        before, levels = root.level, {name: logger.level for name, logger in loggers.items()}
        root.addHandler(handler)
        root.setLevel(min(before, self._least))
        for name, logger in loggers.items():
            logger.setLevel(self._least_by_name[name])
        token = _owner.set(self)
        try:
            yield
        finally:
            _owner.reset(token)
            root.removeHandler(handler)
            root.setLevel(before)
            for name, logger in loggers.items():
                logger.setLevel(levels[name])

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        owner, name = _owner.get(), record.name
        if owner is None:
            if threading.get_ident() == self._thread or name.partition(".")[0] in ("httpx", "httpcore"):
                return False
        elif owner is not self:
            return False
        while name and name not in self._least_by_name:
            name = name.rpartition(".")[0]
        return record.levelno >= self._least_by_name.get(name, self._least)
