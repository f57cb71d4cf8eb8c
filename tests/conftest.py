"""What tests of several folders share."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

from pywatt_host.cli.inspection import asking
from tests import servers
from tests.forkserver import popen
from tests.processes import Project
from tests.servers import MissingServerError, Server

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # processes that the tests start inherit that it is ignored, as by nohup
os.environ["PYTHONUNBUFFERED"] = "1"  # what a process prints is seen at once
settings.register_profile("quick", max_examples=30, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_xdist_auto_num_workers() -> int:
    """Four at least: tests wait for processes more than they compute."""
    return max(4, os.cpu_count() or 1)


def pytest_collection_finish() -> None:
    """Thousands of collected tests never become garbage: each full collection would walk all of them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _applications_are_looked_at_by_forks() -> Iterator[None]:
    """The child of `validate` and its like is a process all the same; `tests/process/test_verbs.py` has them as they
    are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))
        yield


@pytest.fixture
def project() -> Iterator[Project]:
    """An empty folder, its path short enough for Unix sockets; what was started in it ends with the test."""
    with tempfile.TemporaryDirectory(prefix="pywatt") as folder:
        project = Project(Path(folder).resolve())
        try:
            yield project
        finally:
            project.end()


# Servers: started once for each process that runs tests


def started(make: Callable[[Path], Server], folder: Path) -> Iterator[Server]:
    """A running server; a test without one is skipped, and says why."""
    try:
        server = make(folder)
    except MissingServerError as error:
        pytest.skip(str(error))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from started(servers.postgres, tmp_path_factory.mktemp("postgres"))


@pytest.fixture(scope="session")
def maria_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from started(servers.maria, tmp_path_factory.mktemp("maria"))


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from started(servers.valkey, tmp_path_factory.mktemp("valkey"))


@pytest.fixture(scope="session")
def memcached_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from started(servers.memcached, tmp_path_factory.mktemp("memcached"))


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    yield from started(servers.nats, tmp_path_factory.mktemp("nats"))
