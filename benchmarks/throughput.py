"""Requests per second: every stack of a workload gets a short slot in each round, in rotating order.

Absolute figures drift while a run goes on, so a stack is only ever compared with another one of the same round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TypeAlias

from benchmarks.load import Load, LoadError
from benchmarks.server import Cores, Server, ServerError, pinned, started
from benchmarks.stacks import ECHO, Workload

WARM_UP = 0.3  # seconds of load before each slot, not counted
FIRST_WARM_UP = 1.0  # the same before the first round
SHORTEST_LOG_LINE = 40  # octets; less per request means that no access log was written

Connect: TypeAlias = Callable[[int, str, int, bool], AbstractContextManager[Load]]


@dataclass(frozen=True, slots=True)
class Settings:
    """`seconds` is the length of a slot; `connect` makes the load."""

    seconds: float
    rounds: int
    connections: int
    connect: Connect
    cores: Cores


@dataclass(frozen=True, slots=True)
class Slot:
    """One stack in one round. Processor times are None where the system does not tell."""

    rate: float
    server_cpu_per_request: float | None
    server_busy: float | None
    load_busy: float
    log_per_request: float


@dataclass(slots=True)
class Row:
    """A stack and its slots, one a round; a row with a fault has no figures."""

    name: str
    fault: str | None = None
    skipped: str | None = None
    slots: list[Slot] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        return self.fault is None and self.skipped is None and bool(self.slots)

    def rate(self) -> float:
        return median(slot.rate for slot in self.slots)

    def ratio_to(self, other: Row) -> float:
        """The median of the ratios of each round."""
        return median(mine.rate / theirs.rate for mine, theirs in zip(self.slots, other.slots, strict=True))

    def added_cpu(self, other: Row) -> float | None:
        """Seconds of processor time per request beyond what `other` takes in the same round, median."""
        pairs = zip(self.slots, other.slots, strict=True)
        mine_and_theirs = [(mine.server_cpu_per_request, theirs.server_cpu_per_request) for mine, theirs in pairs]
        added = [mine - theirs for mine, theirs in mine_and_theirs if mine is not None and theirs is not None]
        return median(added) if added else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A workload measured. `load` is the load against a server that does nothing: what it can do at the least."""

    workload: Workload
    rows: tuple[Row, ...]
    load: Row

    def row(self, name: str) -> Row | None:
        return next((row for row in self.rows if row.name == name and row.measured), None)


def compare(workload: Workload, settings: Settings, folder: Path, say: Callable[[str], None]) -> Comparison:
    """Start all stacks of `workload`, load them in turn, stop them. A stack that fails becomes a row with a fault."""
    rows = {stack.name: Row(stack.name) for stack in (*workload.stacks, ECHO)}
    with ExitStack() as running:
        servers: list[Server] = []
        for stack in (*workload.stacks, ECHO):
            row = rows[stack.name]
            missing = stack.missing()
            if missing:
                row.skipped = f"{missing} is not installed"
                continue
            server = running.enter_context(started(stack, folder, settings.cores.server))
            try:
                server.wait_ready()
            except ServerError as exc:
                row.fault = str(exc)
                continue
            servers.append(server)
        with pinned(settings.cores.load):
            for number in range(-1, settings.rounds):
                say(f"{workload.title}: " + (f"round {number + 1} of {settings.rounds}" if number >= 0 else "warm-up"))
                alive = [server for server in servers if rows[server.stack.name].fault is None]
                for server in _rotated(alive, max(number, 0)):
                    row = rows[server.stack.name]
                    try:
                        slot = _slot(server, workload.path, settings, FIRST_WARM_UP if number < 0 else settings.seconds)
                    except (LoadError, ServerError) as exc:
                        row.fault = str(exc)
                        continue
                    if number >= 0:
                        row.slots.append(slot)
    load = rows.pop(ECHO.name)
    return Comparison(workload, tuple(rows.values()), load)


def _rotated(servers: Sequence[Server], by: int) -> list[Server]:
    by %= max(1, len(servers))
    return [*servers[by:], *servers[:by]]


def _slot(server: Server, path: str, settings: Settings, seconds: float) -> Slot:
    with settings.connect(server.port, path, settings.connections, server.stack.tls) as load:
        load.run(WARM_UP)
        server.take_output()
        before = server.cpu()
        sample = load.run(seconds)
        after = server.cpu()
    # What a server still holds in its buffer is not missed: it is a fraction of what it wrote.
    log = server.take_output() / sample.requests
    if server.stack.logs and log < SHORTEST_LOG_LINE:
        raise LoadError(f"it is to write its access log and wrote {log:.0f} octets per request")
    cpu = after - before if after is not None and before is not None else None
    return Slot(
        rate=sample.rate,
        server_cpu_per_request=cpu / sample.requests if cpu is not None else None,
        server_busy=cpu / sample.seconds if cpu is not None else None,
        load_busy=sample.cpu / sample.seconds,
        log_per_request=log,
    )
