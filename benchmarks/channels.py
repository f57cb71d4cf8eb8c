"""Messages between two processes: our channels beside what one writes by hand and beside NATS, interleaved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import channel_rows as rows

IN_FLIGHT = (1, 64)
BASELINE = "raw asyncio Unix streams"


@dataclass(slots=True)
class Row:
    """One way, and the rates of each round by how many were in flight."""

    name: str
    start: Callable[[Path], AbstractContextManager[rows.Measure]]
    missing: Callable[[], str] = str
    rates: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in IN_FLIGHT})
    fault: str = ""
    skipped: str = ""

    def ratio_to(self, other: Row, in_flight: int) -> float:
        """The median, over the rounds, of this row's rate by the other's in the same round."""
        pairs = zip(self.rates[in_flight], other.rates[in_flight], strict=True)
        return median(mine / theirs for mine, theirs in pairs)


def all_rows() -> list[Row]:
    return [
        Row(BASELINE, rows.raw),
        Row("ipc between two hosts", rows.direct_ipc),
        Row("tcp between two hosts", rows.direct_tcp),
        Row("ipc through up", rows.up_ipc),
        Row("stdio through up", rows.up_stdio),
        Row("http between two hosts", rows.hosts_over_http),
        Row("NATS between two hosts", rows.hosts_over_nats, rows.nats_missing),
        Row("NATS by nats-py", rows.nats, rows.nats_missing),
    ]


def compare(seconds: float, rounds: int, folder: Path, say: Callable[[str], None]) -> list[Row]:
    """All rows started first, then measured in turn, in an order that rotates."""
    measured = all_rows()
    with ExitStack() as stack:
        ready: list[tuple[Row, rows.Measure]] = []
        for row in measured:
            row.skipped = row.missing()
            if row.skipped:
                continue
            try:
                ready.append((row, stack.enter_context(row.start(folder))))
            except rows.ChannelError as error:
                row.fault = str(error)
        for number in range(rounds):
            say(f"channels: round {number + 1} of {rounds}")
            for row, measure in ready[number % len(ready) :] + ready[: number % len(ready)]:
                for count in IN_FLIGHT:
                    try:
                        row.rates[count].append(measure(count, seconds))
                    except (OSError, rows.ChannelError) as error:
                        row.fault = str(error)
                        row.rates[count].append(float("nan"))
    return measured


def table(measured: list[Row]) -> str:
    lines = ["## channels: about 200 octets of JSON, there and back", ""]
    heads = ["way", *(head for count in IN_FLIGHT for head in (f"{count} in flight, msg/s", f"x {BASELINE}"))]
    lines += ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    baseline = measured[0]
    for row in measured:
        if row.fault or row.skipped:
            note = f"FAULT, {row.fault}" if row.fault else f"left out, {row.skipped}"
            lines.append(f"| {row.name} | {note} |" + " |" * (len(heads) - 2))
            continue
        cells = [row.name]
        for count in IN_FLIGHT:
            ratio = f"{row.ratio_to(baseline, count):.2f}" if not baseline.fault else "-"
            cells += [f"{median(row.rates[count]):,.0f}", ratio]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def data(measured: list[Row]) -> dict[str, Any]:
    found = [
        {"name": row.name, "rates": {str(count): row.rates[count] for count in IN_FLIGHT}, "fault": row.fault}
        for row in measured
    ]
    return {"title": "channels", "rows": found}
