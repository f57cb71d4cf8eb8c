"""Standard streams that are full, closed or missing hold neither serving nor stopping."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import PATIENCE, Connection, Project, allowed, environment

APP = """
import json, os, sys

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["path"] == "/held":
        import asyncio
        await asyncio.Event().wait()
    body = b"hello"
    if scope["path"] == "/streams":
        print("to standard output")
        print("to standard error", file=sys.stderr)
        sys.stdout.flush()
        kinds = [os.fstat(fd).st_rdev == os.stat("/dev/null").st_rdev for fd in (0, 1, 2)]
        body = json.dumps({"read": sys.stdin.read(), "null": kinds}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""
REQUESTS = 1500  # more than 250 KB of log lines, where a pipe holds 64 KiB


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket that the host gets: nothing can tell its address where standard error cannot be read."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as sock:
        yield sock


@contextmanager
def serving(folder: Path, listening: socket.socket, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    project = Project(folder)
    project.write("main.py", APP)
    command = [sys.executable, "-m", "pywatt_host", "run", "main:app", "--log-format", "json", "--listen"]
    process = subprocess.Popen(
        [*command, f"fd:{listening.fileno()}"], cwd=folder, env=environment(folder), stderr=stderr,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[listening.fileno()],
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def connected(listening: socket.socket) -> Connection:
    host, port = listening.getsockname()
    return Connection(f"http://{host}:{port}")


def ended_in_time(process: subprocess.Popen[bytes], seconds: float = 1.0) -> int:
    began = time.monotonic()
    code = process.wait(PATIENCE)
    assert time.monotonic() - began < allowed(seconds)
    return code


def read_until(fd: int, mark: bytes) -> list[bytes]:
    """The lines up to the one that has `mark`."""
    data = b""
    while mark not in data or not data.endswith(b"\n"):
        assert select.select([fd], [], [], PATIENCE)[0], data[-300:]
        data += os.read(fd, 1 << 16)
    return data.splitlines()


def test_a_standard_error_that_nothing_reads_holds_nothing_and_the_lost_lines_are_told(
    tmp_path: Path, listening: socket.socket
) -> None:
    reading, writing = os.pipe()
    with serving(tmp_path, listening, writing) as process, connected(listening) as connection:
        for _ in range(REQUESTS):
            assert connection.request("GET", "/").body == b"hello"
        lines = read_until(reading, b"log lines were lost")
        assert connection.request("GET", "/after").status == 200
        lines += read_until(reading, b"/after")
        records = [json.loads(line) for line in lines]
        (told,) = [record for record in records if "lost" in record]
        assert (told["level"], told["message"]) == (
            "warning",
            f"{told['lost']} log lines were lost: standard error was full",
        )
        assert len([record for record in records if record.get("path") == "/"]) + told["lost"] == REQUESTS
        for _ in range(REQUESTS):
            assert connection.request("GET", "/").status == 200
        process.send_signal(signal.SIGTERM)
        assert ended_in_time(process) == 0
    os.close(reading)
    os.close(writing)


def test_a_second_signal_ends_a_host_whose_standard_error_nothing_reads(
    tmp_path: Path, listening: socket.socket
) -> None:
    reading, writing = os.pipe()
    with serving(tmp_path, listening, writing) as process, connected(listening) as connection:
        with connected(listening) as other:
            for _ in range(REQUESTS):
                assert other.request("GET", "/").status == 200
            connection.head("GET", "/held")
            assert other.request("GET", "/").status == 200
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert ended_in_time(process) == 1
    os.close(reading)
    os.close(writing)


def test_a_standard_error_whose_reader_has_gone_holds_nothing(tmp_path: Path, listening: socket.socket) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with serving(tmp_path, listening, writing) as process, connected(listening) as connection:
        os.close(writing)
        for _ in range(20):
            assert connection.request("GET", "/").body == b"hello"
        process.send_signal(signal.SIGTERM)
        assert ended_in_time(process) == 0


@pytest.mark.parametrize(
    ("closed", "missing"),
    [("0<&-", [0]), ("1>&-", [1]), ("2>&-", [2]), ("0<&- 1>&- 2>&-", [0, 1, 2])],
    ids=["input", "output", "error", "all"],
)
def test_a_stream_that_is_closed_at_the_start_leads_to_dev_null(
    tmp_path: Path, listening: socket.socket, closed: str, missing: list[int]
) -> None:
    project = Project(tmp_path)
    project.write("main.py", APP)
    fd = listening.fileno()
    command = f"exec {sys.executable} -m pywatt_host run main:app --log-format json --listen fd:{fd} {closed}"
    with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
        process = subprocess.Popen(
            ["sh", "-c", command], cwd=tmp_path, env=environment(tmp_path), stdin=subprocess.PIPE, stdout=out,
            stderr=err, pass_fds=[fd],
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.close()
    try:
        with connected(listening) as connection:
            seen = connection.request("GET", "/streams").json()
        assert (seen["read"], [fd for fd, null in enumerate(seen["null"]) if null]) == ("", missing)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait(PATIENCE)
    assert (b"to standard output" in (tmp_path / "out").read_bytes()) == (1 not in missing)
    assert (b"to standard error" in (tmp_path / "err").read_bytes()) == (2 not in missing)


def test_the_last_words_of_a_command_that_fails_wait_for_nothing(tmp_path: Path) -> None:
    """An unexpected error is printed by Python itself, which would block."""
    code = (
        "import os, sys\n"
        "os.set_blocking(2, False)\n"
        "try:\n"
        "    while True: os.write(2, b'x' * 4096)\n"
        "except BlockingIOError: pass\n"
        "os.set_blocking(2, True)\n"
        "import pywatt_host.cli\n"
        "def broken(**more): raise RuntimeError('unexpected')\n"
        "pywatt_host.cli.cli.main = broken\n"
        "pywatt_host.cli.main(['run'])\n"
    )
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path), stderr=writing)
    try:
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)
