"""What tests of several folders share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Project


@pytest.fixture
def project() -> Iterator[Project]:
    """An empty folder, its path short enough for Unix sockets; what was started in it ends with the test."""
    with tempfile.TemporaryDirectory(prefix="pywatt") as folder:
        project = Project(Path(folder).resolve())
        try:
            yield project
        finally:
            project.end()
