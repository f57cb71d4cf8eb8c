"""Processes of `python -m pywatt_host` and `python -m pytest` that begin with everything imported: forks of a server,
one for each process that runs tests. They are as real as any other: their own descriptors, environment, folder, signals
and exit code. Only the 0.4 seconds of processor time that Python needs to import the package are paid once, and not by
each of them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import io
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

# What `run` has imported when it serves, what looks at applications, and pytest.
_IMPORTED: Final = (
    "pywatt_host.cli.run",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
    "pywatt_host.app.route_report",
    "pywatt_host.decorator.scripts",
    "pytest",
)
_MODULES: Final = ("pywatt_host", "pywatt_host.cli.inspection", "pytest")  # that a fork can be
_ROOT: Final = Path(__file__).parent.parent
_LENGTH: Final = struct.Struct("!I")
_MOST_DESCRIPTORS: Final = 64


def popen(
    command: Sequence[str],
    *,
    stdin: int,
    stdout: IO[bytes] | int,
    stderr: IO[bytes] | int,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    start_new_session: bool,
) -> Forked | subprocess.Popen[bytes]:
    """subprocess.Popen, by a fork where one can do what the command does: run one of the modules that the server has
    imported, in an interpreter like this one."""
    assert start_new_session
    environ = os.environ if env is None else env
    known = list(command[:2]) == [sys.executable, "-m"] and command[2] in _MODULES
    theirs = {name: value for name, value in environ.items() if name.startswith("PYTHON") and name != "PYTHONPATH"}
    if sys.platform == "linux" and known and all(os.environ.get(name) == value for name, value in theirs.items()):
        return Forked(command, cwd or Path.cwd(), environ, pass_fds, stdin, stdout, stderr)
    return subprocess.Popen(
        command,
        bufsize=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=env,
        pass_fds=pass_fds,
        start_new_session=True,
    )


class Forked:
    """A fork, with as much of subprocess.Popen as is used here."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        pass_fds: Sequence[int],
        stdin: int,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int,
    ) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self.stdin, fd0 = self._end(stdin, writing=True)
        self.stdout, fd1 = self._end(stdout)
        self.stderr, fd2 = self._end(stderr)
        self._waiting = threading.Lock()
        self._status, status = os.pipe()
        given = [status, fd0, fd1, fd2]
        wanted = {"argv": self.args[2:], "folder": str(folder), "environ": dict(environ), "numbers": list(pass_fds)}
        try:
            _server().ask(wanted, [*given, *pass_fds])
        finally:
            for descriptor in given:
                os.close(descriptor)
        self.pid = self._number()

    @staticmethod
    def _end(stream: IO[bytes] | int, *, writing: bool = False) -> tuple[IO[bytes] | None, int]:
        """This end of a pipe, where it is one, and what the fork gets."""
        if stream == subprocess.DEVNULL:
            return None, os.open(os.devnull, os.O_RDWR)
        if not isinstance(stream, int):
            return None, os.dup(stream.fileno())
        assert stream == subprocess.PIPE
        read, write = os.pipe()
        return (io.FileIO(write, "w"), read) if writing else (io.FileIO(read), write)

    def _number(self) -> int:
        """The next number that the server tells: the process id, then its end."""
        told = os.read(self._status, 4)
        if len(told) != 4:
            raise RuntimeError("the fork server has ended")
        return int(struct.unpack("!i", told)[0])

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired where it does not end in time."""
        with self._waiting:
            if self.returncode is None:
                if not select.select([self._status], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
                self.returncode = self._number()
                os.close(self._status)
            return self.returncode

    def communicate(self, octets: bytes, timeout: float | None = None) -> None:
        """Write these to its standard input, and wait for its end. Raises subprocess.TimeoutExpired."""
        assert self.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.stdin:
            self.stdin.write(octets)
        self.wait(timeout)

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class _Server:
    """The end of this process's fork server that asks."""

    def __init__(self) -> None:
        self._asking = threading.Lock()
        self._socket, theirs = socket.socketpair()
        with theirs:
            kept = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
            path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
                cwd=_ROOT,
                env={**kept, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.end)

    def ask(self, wanted: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        text = json.dumps(wanted).encode()
        with self._asking:
            socket.send_fds(self._socket, [_LENGTH.pack(len(text))], descriptors)
            self._socket.sendall(text)

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


_servers: list[_Server] = []
_starting = threading.Lock()


def _server() -> _Server:
    with _starting:
        if not _servers:
            _servers.append(_Server())
        return _servers[0]


# The server -----------------------------------------------------------------------------------------------------------


def _serve(control: socket.socket) -> dict[str, Any]:
    """Fork for each request, and tell how each fork has ended. Returns in the forks, with what is wanted of them."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    running: dict[int, int] = {}  # process -> where its end is told
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_ends(running)
        if control.fileno() not in ready:
            continue
        head, descriptors, _, _ = socket.recv_fds(control, _LENGTH.size, _MOST_DESCRIPTORS)
        if not head:
            sys.exit(0)
        text = b""
        while missing := _LENGTH.unpack(head)[0] - len(text):
            text += control.recv(missing)
        status, *given = descriptors
        pid = os.fork()
        if pid:
            for descriptor in given:
                os.close(descriptor)
            running[pid] = status
            os.write(status, struct.pack("!i", pid))
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor in (woken, wake, status, control.detach(), *running.values()):
            os.close(descriptor)
        wanted: dict[str, Any] = json.loads(text)
        _become(wanted, given)
        return wanted


def _tell_ends(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        told = running.pop(pid)
        try:
            os.write(told, struct.pack("!i", os.waitstatus_to_exitcode(status)))
        except BrokenPipeError:  # the test has gone
            pass
        os.close(told)


def _become(wanted: Mapping[str, Any], given: Sequence[int]) -> None:
    """A process of its own: session, descriptors, folder, environment."""
    os.setsid()
    numbers = [0, 1, 2, *wanted["numbers"]]
    # First out of the way of all the wanted numbers.
    moved = [_above(descriptor, max(numbers)) for descriptor in given]
    for descriptor, number in zip(moved, numbers, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["environ"])
    time.tzset()
    sys.stdin, sys.stdout = os.fdopen(0, encoding="utf-8", closefd=False), _writing(1)
    sys.stderr = _writing(2, line_buffering=True, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    sys.path[0] = os.getcwd()
    sys.argv = ["", *wanted["argv"][1:]]
    for name in [each for each in sys.modules if each.partition(".")[0] == "tests"]:
        del sys.modules[name]


def _writing(descriptor: int, **options: Any) -> Any:
    raw = io.FileIO(descriptor, "w", closefd=False)
    if os.environ.get("PYTHONUNBUFFERED"):
        return io.TextIOWrapper(raw, encoding="utf-8", write_through=True, **options)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", **options)


def _above(descriptor: int, number: int) -> int:
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, number + 1)
    os.close(descriptor)
    return copy


def _measured() -> None:
    """Where processes are measured for coverage, a fork is, from here on."""
    if any(value and name.startswith("COVERAGE_PROCESS_") for name, value in os.environ.items()):
        import coverage

        coverage.process_startup()


if __name__ == "__main__":
    for each in _IMPORTED:
        __import__(each)
    gc.collect()
    gc.freeze()
    asked = _serve(socket.socket(fileno=int(sys.argv[1])))
    _measured()
    runpy.run_module(asked["argv"][0], run_name="__main__", alter_sys=True)
