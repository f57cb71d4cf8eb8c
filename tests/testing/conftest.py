"""A test session of a user's, in a process of its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.processes import PATIENCE, Host, environment

RunTests: TypeAlias = Callable[..., "Outcome"]


class Outcome:
    """What pytest said, and how many of each outcome it counted."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        last = output.rstrip().rpartition("\n")[2]
        self.counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)s?", last)}


@pytest.fixture
def run_tests(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunTests]:
    """Run pytest on a text as the only test file of a folder, with no plugin but the kit. Warnings are errors there
    where they are here."""
    processes: list[Host] = []
    warnings = [f"-W{each}" for each in request.config.known_args_namespace.pythonwarnings or ()]

    def run(text: str = "", *arguments: str, kind: type[Host] = Host) -> Outcome:
        if text:
            (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
        plain = ["-p", "no:cacheprovider", "-p", "pywatt_host.testing", "-q", *warnings, "--rootdir", str(tmp_path)]
        command = [sys.executable, "-m", "pytest", *plain, *arguments, str(tmp_path)]
        process = kind(command, tmp_path, environment(tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"))
        processes.append(process)
        code = process.wait(2 * PATIENCE)
        return Outcome(code, "\n".join([*process.lines, process.stdout.decode()]))

    yield run
    for process in processes:
        process.end()
