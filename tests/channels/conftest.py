"""Each test of a channel runs on both event loops, and on each kind of channel."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.channels.places import KINDS, LOOPS, Certificates, Main, Place, run_on


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    return partial(run_on, request.param)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Its path is short enough for Unix sockets."""
    with tempfile.TemporaryDirectory(prefix="pywatt") as name:
        yield Path(name)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, folder: Path) -> Iterator[Place]:
    kind = request.param
    place = Place(kind, folder, request.getfixturevalue("certificates") if "tls" in kind else None)
    yield place
    place.leave()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foreign peers never answer identify: do not wait a second for each."""
    monkeypatch.setattr("pywatt_host.peers.reconnecting._IDENTIFY_ANSWER_TIMEOUT", 0.05)
