"""A test session of a user's, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.processes import PATIENCE, environment

RunTests: TypeAlias = Callable[..., "Outcome"]


class Outcome:
    """What pytest said, and how many of each outcome it counted."""

    def __init__(self, code: int, output: str) -> None:
        self.code = code
        self.output = output
        last = output.rstrip().rpartition("\n")[2]
        self.counts = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)s?", last)}


@pytest.fixture
def run_tests(tmp_path: Path) -> RunTests:
    """Run pytest on a text as the only test file of a folder."""

    def run(text: str = "", *arguments: str, timeout: float = 2 * PATIENCE) -> Outcome:
        if text:
            (tmp_path / "test_it.py").write_text(text, encoding="utf-8")
        plain = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "-q", "-W", "error"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *plain, "--rootdir", str(tmp_path), *arguments, str(tmp_path)],
            cwd=tmp_path,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Outcome(done.returncode, done.stdout)

    return run
