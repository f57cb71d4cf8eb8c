"""The parts that every supervised process shares."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pywatt_host.supervision.process import LineSplitter, describe_exit, signal_group, signal_process


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (3, "exit code 3"), (-9, "killed by SIGKILL"), (-200, "killed by signal 200")],
)
def test_an_exit_code_is_described_in_words(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_a_signal_to_a_process_that_has_ended_does_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    process.wait()
    signal_process(process.pid, signal.SIGTERM)
    signal_group(process.pid, signal.SIGTERM)


def test_a_signal_to_the_group_reaches_what_the_process_has_started() -> None:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'])\n"
        "child.wait()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == b"1\n"
        signal_group(process.pid, signal.SIGKILL)
        assert output.read() == b""  # the grandchild held the pipe too
    assert process.wait() == -signal.SIGKILL


@given(st.lists(st.binary(max_size=20)), st.integers(1, 12))
def test_lines_are_the_same_however_the_bytes_are_split(pieces: list[bytes], limit: int) -> None:
    found: list[bytes] = []
    splitter = LineSplitter(found.append, limit)
    for piece in pieces:
        splitter.feed(piece)
    splitter.end()
    *whole, last = b"".join(pieces).split(b"\n")
    assert found == [line[:limit] for line in [*whole, *([last] if last else [])]]
