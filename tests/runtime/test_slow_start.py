"""A start that takes long says what it waits for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from pywatt_host.runtime.slow_start import told_when_slow

PATIENCE = 20.0  # seconds


class Told(logging.Handler):
    def __init__(self, lines: int) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._wanted = lines
        self.enough = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        if len(self.lines) >= self._wanted:
            self.enough.set()


@pytest.fixture
def told() -> Iterator[Told]:
    logger, handler = logging.getLogger("pywatt.host"), Told(2)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_it_names_the_part_and_the_line_of_the_application(told: Told) -> None:
    with told_when_slow(lambda: "load main:app", first=0.01, following=0.01):
        assert told.enough.wait(PATIENCE)
    line = told.lines[0]
    assert line.startswith("still starting after 0 s: load main:app, at ")
    assert __file__ in line
    assert "in test_it_names_the_part_and_the_line_of_the_application" in line


def test_nothing_is_said_of_a_start_that_is_quick(told: Told) -> None:
    before = threading.active_count()
    with told_when_slow(lambda: "load main:app", first=PATIENCE):
        pass
    while threading.active_count() > before:
        pass  # the thread ends with the start
    assert told.lines == []
