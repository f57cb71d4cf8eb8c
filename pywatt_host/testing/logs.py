"""The log of a module under test, kept in memory beside pytest's own capture."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pywatt_host.manifest.model import Logging
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import LEVELS, RecordFormatter, StreamHandler

# The log of the module whose code runs. Tasks, and threads that tasks hand work to, inherit it from their creator.
_owner: ContextVar[CapturedLogs | None] = ContextVar("pywatt_testing_owner", default=None)


class CapturedLogs(LogStream):
    """JSON lines in memory, with secrets masked as in a running host. `test_thread` is the thread of the test if the
    module runs in another one."""

    def __init__(self, test_thread: int | None) -> None:
        super().__init__(-1)
        self._lines: list[bytes] = []
        self._test_thread = test_thread
        self._level = logging.NOTSET
        self._level_by_name: dict[str, int] = {}

    def write(self, data: bytes, lines: int = 1) -> None:
        """Keep `lines` whole lines."""
        self._lines.append(self.masked(data))

    def records(self) -> list[dict[str, Any]]:
        """All records so far. A line that is not JSON, because the manifest sets another format, becomes the `message`
        of a record."""
        lines = b"".join(self._lines[:]).decode("utf-8", "replace").splitlines()
        return [json.loads(line) if line.startswith("{") else {"message": line} for line in lines]

    def tail(self, most: int = 20) -> str:
        """The newest `most` lines as text."""
        return b"".join(self._lines[-most:]).decode("utf-8", "replace").rstrip("\n")

    @contextmanager
    def capturing(self, settings: Logging) -> Iterator[None]:
        """Keep what this module logs while the block runs, with the levels of `settings`. Records of code that belongs
        to no module are kept too, unless the code runs in the test's thread. Other log handlers, such as pytest's, go
        on working."""
        self._level = LEVELS[settings.level]
        self._level_by_name = {name: LEVELS[level] for name, level in settings.loggers.items()}
        handler = StreamHandler(self, RecordFormatter("json", settings.redact, False))
        handler.addFilter(self._is_wanted)
        root = logging.getLogger()
        loggers = {name: logging.getLogger(name) for name in settings.loggers}
        before, levels = root.level, {name: logger.level for name, logger in loggers.items()}
        root.addHandler(handler)
        root.setLevel(min(before, self._level))
        for name, logger in loggers.items():
            logger.setLevel(self._level_by_name[name])
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
            if threading.get_ident() == self._test_thread or name.partition(".")[0] in ("httpx", "httpcore"):
                return False
        elif owner is not self:
            return False
        while name and name not in self._level_by_name:
            name = name.rpartition(".")[0]
        return record.levelno >= self._level_by_name.get(name, self._level)
