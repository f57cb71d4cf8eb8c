"""One stack running as a child process: started on a free port, watched from outside, and gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks import certificate
from benchmarks.load import LoadError, connect
from benchmarks.stacks import Stack

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 30.0  # seconds until the first 200
STOP_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL
_POLL = 0.001  # seconds between two looks at a server that is starting
# Python is measured as people run it: these would slow it down or keep it from caching bytecode.
_LEFT_OUT = ("PYTHONDONTWRITEBYTECODE", "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONWARNINGS", "PYTHONTRACEMALLOC")


class ServerError(Exception):
    """A server did not start: it left, or gave no 200 in time."""


@dataclass(frozen=True, slots=True)
class Cores:
    """The core for the server and the one for the load; None where cores cannot be chosen or there is only one."""

    server: int | None
    load: int | None

    @classmethod
    def available(cls) -> Cores:
        if not hasattr(os, "sched_getaffinity"):
            return cls(None, None)
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[1]) if len(cores) > 1 else cls(None, None)


@contextmanager
def pinned(core: int | None) -> Iterator[None]:
    """Keep this process, and those that it starts meanwhile for good, on `core`."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Server:
    """A started stack, not yet ready. Its output goes to a file, which is what its access log is checked by."""

    def __init__(self, stack: Stack, folder: Path, core: int | None) -> None:
        self.stack = stack
        self.port = free_port()
        self._output = folder / f"{self.port}.log"
        manifest = folder / f"{self.port}.yaml"
        if stack.tls:
            certificate.write(folder)
        if stack.host is not None:
            manifest.write_text(stack.host.manifest(self.port))
        # Appending, so that the file may be emptied between two slots without leaving a hole at its start.
        with self._output.open("ab") as output, pinned(core):
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                stack.command(self.port, manifest),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment(folder),
                # A session of its own: a Ctrl-C reaches it only through `stop`, and its workers can be told by it.
                start_new_session=True,
            )

    def wait_ready(self) -> float:
        """Seconds from the start to the first 200 for `/`."""
        while True:
            try:
                with connect(self.port, "/", 1, self.stack.tls):
                    return time.perf_counter() - self.started
            except LoadError as exc:
                if self._process.poll() is not None:
                    raise ServerError(f"left with {self._process.returncode}: {self.last_output()}") from exc
                if time.perf_counter() - self.started > START_TIMEOUT:
                    raise ServerError(f"no 200 in {START_TIMEOUT:g} s ({exc}): {self.last_output()}") from exc
            time.sleep(_POLL)

    def cpu(self) -> float | None:
        """Seconds of processor time so far of all its processes, proc(5); None where there is no /proc."""
        stats = list(self._stats())
        ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in stats)  # utime and stime
        return ticks / os.sysconf("SC_CLK_TCK") if stats else None

    def resident(self) -> int | None:
        """Octets resident in memory of all its processes, shared pages counted in each; None without /proc."""
        stats = list(self._stats())
        return sum(int(fields[21]) for _, fields in stats) * os.sysconf("SC_PAGE_SIZE") if stats else None

    def private_memory(self, pid: int) -> int:
        """Bytes that one process shares with no other: its unique set size. Raises OSError without smaps_rollup."""
        kept = _rollup(pid)
        return kept["Private_Clean"] + kept["Private_Dirty"]

    def proportional_memory(self) -> int:
        """Bytes of all its processes, each shared page counted once. Raises OSError without smaps_rollup."""
        return sum(_rollup(pid)["Pss"] for pid, _ in self._stats())

    def hang_up(self) -> None:
        """Send SIGHUP to the process that was started, and to no worker."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGHUP)

    def _stats(self) -> Iterator[tuple[int, list[str]]]:
        """The fields of proc(5)'s stat from `state` on, of every process in its session and of all their descendants,
        which may have sessions of their own."""
        stats: dict[int, list[str]] = {}
        for entry in Path("/proc").glob("[0-9]*/stat"):
            # A process may leave between being listed and being read.
            with suppress(OSError):
                stats[int(entry.parent.name)] = entry.read_text().rpartition(")")[2].split()
        own = {pid for pid, fields in stats.items() if int(fields[3]) == self._process.pid}
        while more := {pid for pid, fields in stats.items() if pid not in own and int(fields[1]) in own}:
            own |= more
        yield from ((pid, stats[pid]) for pid in own)

    def take_output(self) -> int:
        """How many octets it wrote since the last call; the file is emptied, so that it stays small."""
        size = self._output.stat().st_size
        os.truncate(self._output, 0)
        return size

    def last_output(self) -> str:
        return self._output.read_bytes()[-2000:].decode(errors="replace").strip() or "it wrote nothing"

    def stop(self) -> None:
        """SIGTERM, SIGKILL if that does not end it in time, and the same end for workers that it left behind."""
        try:
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_TIMEOUT)
        finally:  # also when a second Ctrl-C cuts the wait short
            # The group keeps its number for as long as it has a member. macOS says EPERM for a group of zombies.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(STOP_TIMEOUT)


@contextmanager
def started(stack: Stack, folder: Path, core: int | None) -> Iterator[Server]:
    """A server that is stopped at the end whatever happens, an interrupt included."""
    server = Server(stack, folder, core)
    try:
        yield server
    finally:
        server.stop()


def _rollup(pid: int) -> dict[str, int]:
    """The sums of proc(5)'s smaps of a process, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, with the checkout importable and `folder` for what servers leave behind."""
    kept = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT and not key.startswith("PYWATT_")}
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "XDG_RUNTIME_DIR": str(folder)}
