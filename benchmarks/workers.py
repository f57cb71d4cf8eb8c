"""How connections spread over workers, and what a worker takes of memory. Linux only, by proc(5)."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.server import Server, ServerError, started
from benchmarks.stacks import Stack
from benchmarks.worker_stacks import MEMORY, SPREAD, WORKERS

CONNECTIONS = 32
_TIMEOUT = 10.0  # seconds for one answer
_NEXT_CONNECTION = 0.2  # seconds until a further connection is tried
_LONGEST_ANSWER = 65536  # bytes
_REQUEST = b"GET /pid HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(slots=True)
class Spread:
    """A stack, and the connections of its busiest worker by those of a mean one, each round."""

    name: str
    fault: str | None = None
    skipped: str | None = None
    ratios: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Memory:
    """A stack, and in bytes: what each worker has for itself, and what all its processes take, shared pages once."""

    name: str
    fault: str | None = None
    skipped: str | None = None
    own: list[int] = field(default_factory=list)
    total: int = 0

    @property
    def second(self) -> int:
        """What the second worker has for itself: the smallest, since any of them can be called the first."""
        return min(self.own)


def measure_spread(rounds: int, folder: Path, say: Callable[[str], None]) -> list[Spread]:
    """All stacks started first; in each round, each gets CONNECTIONS new connections."""
    rows = {stack.name: Spread(stack.name, skipped=_missing(stack)) for stack in SPREAD}
    with ExitStack() as running:
        servers: list[Server] = []
        for stack in SPREAD:
            row = rows[stack.name]
            if row.skipped is None:
                server = running.enter_context(started(stack, folder, None))
                try:
                    _meet(server)
                    servers.append(server)
                except (ServerError, OSError) as error:
                    row.fault = str(error)
        for number in range(rounds):
            say(f"spread: round {number + 1} of {rounds}")
            for server in servers:
                row = rows[server.stack.name]
                try:
                    row.ratios += [spread_of(server.port, CONNECTIONS)] if row.fault is None else []
                except (ServerError, OSError) as error:
                    row.fault = str(error)
    return list(rows.values())


def spread_of(port: int, connections: int) -> float:
    """Open this many connections, all kept, and say how many of them the busiest worker has by the mean of WORKERS.
    Raises ServerError where a connection changes its worker."""
    sockets: list[socket.socket] = []
    try:
        for _ in range(connections):
            sockets.append(socket.create_connection(("127.0.0.1", port), _TIMEOUT))
        first = [pid_of(each) for each in sockets]
        if first != [pid_of(each) for each in sockets]:
            raise ServerError("a kept connection was answered by two processes")
    finally:
        for each in sockets:
            each.close()
    return max(Counter(first).values()) / (connections / WORKERS)


def measure_memory(folder: Path, say: Callable[[str], None]) -> list[Memory]:
    """One stack at a time: once every worker has answered, what each of them has for itself."""
    rows = []
    for stack in MEMORY:
        row = Memory(stack.name, skipped=_missing(stack) or _unmeasured())
        rows.append(row)
        if row.skipped is not None:
            continue
        say(f"memory: {stack.name}")
        with started(stack, folder, None) as server:
            try:
                workers = _meet(server)
                row.own = [server.private_memory(pid) for pid in sorted(workers)]
                row.total = server.proportional_memory()
            except (ServerError, OSError) as error:
                row.fault = str(error)
    return rows


def _missing(stack: Stack) -> str | None:
    missing = stack.missing()
    return f"{missing} is not installed" if missing else None


def _unmeasured() -> str | None:
    return None if Path("/proc/self/smaps_rollup").exists() else "there is no /proc/PID/smaps_rollup here"


def _meet(server: Server) -> set[int]:
    """The process ids of all workers, once each has answered."""
    server.wait_ready()
    met: set[int] = set()
    for _ in range(WORKERS):
        met.add(_another(server.port, met))
    return met


def _another(port: int, met: set[int]) -> int:
    """A worker that was not met yet: it answers while all others are stopped, also where one of them usually accepts
    every connection. Raises ServerError."""
    for pid in met:
        os.kill(pid, signal.SIGSTOP)
    with ExitStack() as opened:
        opened.callback(_go_on, met)
        limit = time.monotonic() + _TIMEOUT
        selector = opened.enter_context(selectors.DefaultSelector())
        while time.monotonic() < limit:  # a connection may wait for a worker that is stopped: the next one may not
            sock = opened.enter_context(socket.create_connection(("127.0.0.1", port), _TIMEOUT))
            sock.sendall(_REQUEST)
            selector.register(sock, selectors.EVENT_READ)
            for key, _ in selector.select(_NEXT_CONNECTION):
                assert isinstance(key.fileobj, socket.socket)
                return _pid_in_answer(key.fileobj)
    raise ServerError(f"of {WORKERS} workers, {len(met)} answered within {_TIMEOUT:g} s")


def _go_on(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def pid_of(sock: socket.socket) -> int:
    """The process that answers on a connection. Raises ServerError where the answer is not 200."""
    sock.sendall(_REQUEST)
    return _pid_in_answer(sock)


def _pid_in_answer(sock: socket.socket) -> int:
    answer = b""
    while b"\r\n\r\n" not in answer or not answer.partition(b"\r\n\r\n")[2]:
        piece = sock.recv(_LONGEST_ANSWER)
        if not piece:
            raise ServerError(f"the server closed the connection after {answer[:200]!r}")
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ServerError(f"wrong answer: {answer[:200]!r}")
    return int(body)


def tables(spreads: Sequence[Spread], memories: Sequence[Memory]) -> tuple[list[list[str]], list[list[str]]]:
    """The cells of both tables, with their heads; a row without figures has `-` and a note elsewhere."""
    first = [["stack", "busiest / mean", "worst"]]
    for spread in spreads:
        cells = [f"{median(spread.ratios):.2f}", f"{max(spread.ratios):.2f}"] if measured(spread) else ["-"]
        first.append([spread.name, *cells])
    second = [["stack", "second worker's own MiB", "all processes MiB"]]
    for memory in memories:
        cells = [f"{memory.second / 2**20:.1f}", f"{memory.total / 2**20:.1f}"] if measured(memory) else ["-"]
        second.append([memory.name, *cells])
    return first, second


def measured(row: Spread | Memory) -> bool:
    figures = row.ratios if isinstance(row, Spread) else row.own
    return row.fault is None and row.skipped is None and bool(figures)


def data(spreads: Sequence[Spread], memories: Sequence[Memory]) -> list[dict[str, Any]]:
    return [
        {"title": "spread", "rows": [asdict(row) for row in spreads]},
        {"title": "memory", "rows": [asdict(row) for row in memories]},
    ]
