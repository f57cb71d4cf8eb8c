"""The stream of log lines: whatever standard error is, who logs goes on, and what is lost is counted and told."""

from __future__ import annotations

import errno
import os
import pty
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pywatt_host.observability.log_stream import LogStream, _can_write_at_once, lost_text
from tests.processes import PATIENCE

LINE = b"x" * 1023 + b"\n"
MODULE = "pywatt_host.observability.log_stream"


class Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._streams: list[LogStream] = []

    def stream(self) -> LogStream:
        self._streams.append(LogStream(self.writing))
        return self._streams[-1]

    def until(self, found: Callable[[bytes], bool]) -> bytes:
        """Read until that was found in everything that was read."""
        data = b""
        end = time.monotonic() + PATIENCE
        while not found(data):
            assert select.select([self.reading], [], [], max(0.0, end - time.monotonic()))[0], data[-300:]
            more = os.read(self.reading, 1 << 16)
            assert more, data[-300:]
            data += more
        return data

    def close(self) -> None:
        _close(self.reading)
        for stream in self._streams:
            stream.finish()
        _close(self.writing)


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass  # by the test


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture(params=["at once", "opened once more", "asked before each write"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The ways to write to a pipe without blocking."""
    if request.param != "at once":
        monkeypatch.setattr(f"{MODULE}._can_write_at_once", lambda: False)
    if request.param == "asked before each write":

        def refused(path: str, flags: int) -> int:
            raise PermissionError(errno.EACCES, path)

        monkeypatch.setattr(f"{MODULE}.os.open", refused)
    return str(request.param)


def filled(stream: LogStream) -> int:
    """Write lines until some are lost; returns how many lines were written."""
    written = 0
    end = time.monotonic() + PATIENCE
    while not stream.lost:
        assert time.monotonic() < end
        stream.write(LINE * 16, 16)
        written += 16
    return written


@pytest.mark.usefixtures("way")
def test_a_pipe_that_nothing_reads_costs_lines_and_their_number_is_told_once_it_is_read(pipe: Pipe) -> None:
    stream = pipe.stream()
    written = filled(stream)
    stream.write(b"lost too\n")
    lost = stream.lost
    told = lost_text(lost).encode() + b"\n"
    data = pipe.until(lambda data: data.endswith(told))
    assert data == LINE * (written + 1 - lost) + told
    stream.write(b"after\n")
    assert pipe.until(lambda data: b"\n" in data) == b"after\n"
    assert stream.lost == lost


def test_lines_wait_for_a_reader_that_is_busy_and_not_for_one_that_has_stalled(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._STALL_TIMEOUT", 0.05)
    stream = pipe.stream()
    written = 100
    stream.write(LINE * written, written)
    end = time.monotonic() + PATIENCE
    while not stream.lost:
        assert time.monotonic() < end
        time.sleep(0.01)
    told = lost_text(stream.lost).encode() + b"\n"
    assert pipe.until(lambda data: data.endswith(told)) == LINE * (written - stream.lost) + told


@pytest.mark.usefixtures("way")
def test_a_burst_that_is_read_loses_nothing_and_keeps_its_order(pipe: Pipe) -> None:
    stream = pipe.stream()
    lines = [b"%06d %s" % (number, LINE) for number in range(150)]  # more than twice what the pipe holds
    for line in lines:
        stream.write(line)
    stream.write(b"last\n")
    assert pipe.until(lambda data: data.endswith(b"last\n")) == b"".join(lines) + b"last\n"
    assert stream.lost == 0


@pytest.mark.usefixtures("way")
def test_the_rest_of_a_line_that_has_left_in_part_is_never_joined_with_another(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{MODULE}._STALL_TIMEOUT", 0.01)
    stream = pipe.stream()
    long = b"y" * 100_000 + b"\n"
    stream.write(long + b"z\n", 2)
    end = time.monotonic() + PATIENCE
    while not stream.lost:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert stream.lost == 1
    assert pipe.until(lambda data: data.count(b"\n") == 2) == long + lost_text(1).encode() + b"\n"


def test_what_other_processes_share_is_not_changed(pipe: Pipe) -> None:
    filled(pipe.stream())
    assert os.get_blocking(pipe.writing)


def test_a_descriptor_that_another_process_has_made_non_blocking_is_written_to(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    filled(pipe.stream())


def test_a_reader_that_has_gone_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.reading)
    stream = pipe.stream()
    for _ in range(3):
        stream.write(LINE)
    assert stream.lost == 3
    began = time.monotonic()
    stream.finish()
    assert time.monotonic() - began < PATIENCE / 4


def test_a_reader_that_goes_while_lines_wait_ends_the_wait(pipe: Pipe) -> None:
    stream = pipe.stream()
    for _ in range(200):
        stream.write(LINE)
    os.close(pipe.reading)
    end = time.monotonic() + PATIENCE
    while stream.lost < 100:
        assert time.monotonic() < end
        stream.write(LINE)


def test_a_descriptor_that_is_closed_costs_lines_and_nothing_else(pipe: Pipe) -> None:
    os.close(pipe.writing)
    stream = pipe.stream()
    stream.write(LINE)
    assert stream.lost == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a disk that is always full")
def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    stream = LogStream(fd)
    stream.write(LINE * 2, 2)
    stream.finish()
    os.close(fd)
    assert stream.lost == 2


def test_a_disk_that_has_room_again_gets_the_rest_of_the_line_and_the_number_of_those_that_were_lost(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    room, real = 7, os.write

    def write(to: int, data: Any) -> int:
        nonlocal room
        if to != fd:
            return real(to, data)
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(to, bytes(data[:room]))
        room -= written
        return written

    monkeypatch.setattr(f"{MODULE}.os.write", write)
    stream = LogStream(fd)
    stream.write(b"one\ntwo\nthree\n", 3)
    stream.write(b"four\n")
    assert stream.lost == 2
    room = 1000
    stream.write(b"five\n")
    os.close(fd)
    text = (tmp_path / "log").read_text()
    assert text == f"one\ntwo\n{lost_text(2)}\nfive\n"


def test_a_terminal_that_nothing_reads_holds_nothing() -> None:
    master, slave = pty.openpty()
    stream = LogStream(slave)
    filled(stream)
    assert os.get_blocking(slave)
    stream.finish()
    os.close(slave)
    os.close(master)


def test_a_socket_that_nothing_reads_holds_nothing() -> None:
    ours, theirs = socket.socketpair()
    stream = LogStream(theirs.fileno())
    written = filled(stream)
    assert os.get_blocking(theirs.fileno())
    told, data = lost_text(stream.lost).encode() + b"\n", b""
    ours.settimeout(PATIENCE)
    while not data.endswith(told):
        data += ours.recv(1 << 16)
    assert data == LINE * (written - stream.lost) + told
    stream.finish()
    ours.close()
    theirs.close()


def test_the_end_of_the_process_waits_for_a_reader_that_reads_and_hardly_for_one_that_does_not(pipe: Pipe) -> None:
    stream = pipe.stream()
    stream.write(LINE * 150, 150)
    began = time.monotonic()
    stream.finish()
    assert time.monotonic() - began < PATIENCE / 4
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.until(lambda data: data.endswith(b"last\n"))))
    reader.start()
    stream.write(b"last\n")
    stream.finish()
    reader.join(PATIENCE)
    assert read[0].endswith(b"last\n")


@pytest.mark.skipif(not _can_write_at_once(), reason="this kernel does not know RWF_NOWAIT for pipes")
def test_a_pipe_ends_with_the_descriptor_that_the_stream_was_given(pipe: Pipe) -> None:
    stream = pipe.stream()
    stream.write(b"a\n")
    os.close(pipe.writing)
    assert os.read(pipe.reading, 100) == b"a\n"
    assert os.read(pipe.reading, 100) == b""
    stream.finish()


@pytest.mark.usefixtures("way")
def test_a_descriptor_of_its_own_is_closed_with_the_stream(pipe: Pipe) -> None:
    stream = LogStream(pipe.writing)
    stream.write(b"a\n")
    del stream
    os.close(pipe.writing)
    assert os.read(pipe.reading, 100) == b"a\n"
    assert os.read(pipe.reading, 100) == b""


def test_a_write_inside_a_write_as_a_signal_handlers_does_not_hang(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{MODULE}._can_write_at_once", lambda: False)
    stream = pipe.stream()
    real = os.write
    depth: list[int] = []

    def interrupted(fd: int, data: Any) -> int:
        if not depth:
            depth.append(1)
            stream.write(b"inner\n")
        return real(fd, data)

    monkeypatch.setattr(f"{MODULE}.os.write", interrupted)
    thread = threading.Thread(target=stream.write, args=(b"outer\n",), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    monkeypatch.undo()
    assert not thread.is_alive()
    assert os.read(pipe.reading, 100) == b"inner\nouter\n"


def test_another_thread_that_is_held_in_a_write_holds_nothing_else(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file on a server that does not answer: the end of the process must not wait for the lock."""
    monkeypatch.setattr(f"{MODULE}._LOCK_TIMEOUT", 0.05)
    monkeypatch.setattr(f"{MODULE}._can_write_at_once", lambda: False)
    stream = pipe.stream()
    held, go = threading.Event(), threading.Event()
    real = os.write

    def stuck(fd: int, data: Any) -> int:
        held.set()
        go.wait(PATIENCE)
        return real(fd, data)

    monkeypatch.setattr(f"{MODULE}.os.write", stuck)
    thread = threading.Thread(target=stream.write, args=(b"held\n",))
    thread.start()
    assert held.wait(PATIENCE)
    stream.write(b"last words\n")
    assert stream.lost == 1
    go.set()
    thread.join(PATIENCE)
