"""sd_notify(3): what is said to whom, and when nothing is."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pywatt_host.runtime.systemd import notifier
from tests.hosting import run
from tests.processes import Project


@pytest.fixture
def systemd(project: Project) -> Iterator[tuple[socket.socket, str]]:
    path = os.fspath(project.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(path)
        sock.settimeout(20)
        yield sock, path


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}, {"WATCHDOG_USEC": "1"}])
def test_without_a_notify_socket_nothing_is_told(environ: dict[str, str]) -> None:
    assert notifier(environ) is None


def test_it_tells_ready_and_stopping(systemd: tuple[socket.socket, str]) -> None:
    sock, path = systemd

    async def main() -> None:
        service = notifier({"NOTIFY_SOCKET": path})
        assert service is not None
        async with asyncio.TaskGroup() as tasks, service.running(tasks):
            assert sock.recv(100) == f"READY=1\nMAINPID={os.getpid()}".encode()
            service.stopping()
            assert sock.recv(100) == b"STOPPING=1"

    run(main)


def test_a_reload_is_told_with_its_time_and_ends_with_ready(systemd: tuple[socket.socket, str]) -> None:
    sock, path = systemd
    service = notifier({"NOTIFY_SOCKET": path})
    assert service is not None
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.reloading()
    first, _, when = sock.recv(200).decode().partition("\nMONOTONIC_USEC=")
    assert first == "RELOADING=1"
    assert before <= int(when) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    service.ready()
    assert sock.recv(200).decode() == f"READY=1\nMAINPID={os.getpid()}"
    service.ready("reload refused:\n pywatt.yaml:1:1")
    assert sock.recv(200).decode().endswith("\nSTATUS=reload refused: pywatt.yaml:1:1")


@pytest.mark.parametrize(
    ("more", "fed"),
    [
        ({"WATCHDOG_USEC": "1000"}, True),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid())}, True),
        ({"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}, False),
        ({"WATCHDOG_USEC": "0"}, False),
        ({"WATCHDOG_USEC": "soon"}, False),
    ],
)
def test_the_watchdog_is_fed_where_it_is_asked_of_this_process(
    systemd: tuple[socket.socket, str], more: dict[str, str], fed: bool
) -> None:
    sock, path = systemd

    async def main() -> None:
        service = notifier({"NOTIFY_SOCKET": path, **more})
        assert service is not None
        async with asyncio.TaskGroup() as tasks, service.running(tasks):
            assert sock.recv(100).startswith(b"READY=1")
            for _ in range(3):
                await asyncio.sleep(0.002)  # lets the feeding task run
        said = sock.recv(100)
        assert said == (b"WATCHDOG=1" if fed else b"STOPPING=1")

    run(main)


def test_a_systemd_that_has_gone_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    assert service is not None
    service.stopping()
    assert "systemd was not told STOPPING=1" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="abstract socket names are Linux's")
def test_an_abstract_socket_is_written_with_an_at_sign() -> None:
    name = f"pywatt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        sock.settimeout(20)
        service = notifier({"NOTIFY_SOCKET": "@" + name})
        assert service is not None
        service.stopping()
        assert sock.recv(100) == b"STOPPING=1"
