"""Measurements as tables for people and as plain data for programs."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Any

from benchmarks import reload, workers
from benchmarks.startup import Timing
from benchmarks.throughput import Comparison, Row
from benchmarks.worker_stacks import WORKERS

ENOUGH = 3.0  # how many times faster than bare uvicorn the load should be able to go
_PACKAGES = (
    *("pywatt-host", "uvicorn", "uvloop", "httptools", "h11", "starlette", "flask", "a2wsgi"),
    *("gunicorn", "uvicorn-worker", "waitress", "granian", "fastapi"),
    *("prometheus-fastapi-instrumentator", "asgi-correlation-id", "python-json-logger"),
)


def throughput_table(comparison: Comparison) -> str:
    """One line per stack: its rate, its ratio to each row of reference, and where the processor time went."""
    workload = comparison.workload
    references = [(name, comparison.row(name)) for name in workload.against]
    baseline = references[0][1]
    heads = ["stack", "req/s", *(f"x {name}" for name in workload.against)]
    heads += ["added us/req", "server busy", "load busy", "log B/req"]
    lines = [heads]
    notes = []
    for row in comparison.rows:
        if not row.measured:
            lines.append([row.name, "-"])
            notes.append(_note(row))
            continue
        cells = [row.name, f"{row.rate():,.0f}"]
        cells += [f"{row.ratio_to(other):.2f}" if other else "-" for _, other in references]
        added = row.added_cpu(baseline) if baseline else None
        busy = [slot.server_busy for slot in row.slots if slot.server_busy is not None]
        cells += [f"{added * 1e6:+.1f}" if added is not None else "-", f"{median(busy):.0%}" if busy else "-"]
        cells.append(f"{median(slot.load_busy for slot in row.slots):.0%}")
        cells.append(f"{median(slot.log_per_request for slot in row.slots):.0f}")
        lines.append(cells)
    if baseline and comparison.load.measured:
        times = comparison.load.ratio_to(baseline)
        verdict = "" if times >= ENOUGH else f": LESS THAN {ENOUGH:g}, so the load may hold back the fastest rows"
        notes.append(f"the load alone reaches at least {times:.1f} x {baseline.name}{verdict}")
    elif baseline:
        notes.append(_note(comparison.load))
    else:
        notes.append(f"no ratios: the baseline, {workload.against[0]}, was not measured")
    return _table(workload.title, lines, notes)


def startup_table(title: str, timings: Sequence[Timing]) -> str:
    """One line per thing timed; the first is what the others are set against."""
    first = timings[0]
    lines = [["what", "median s", "least s", f"x {first.name}", "resident MiB"]]
    notes = []
    for timing in timings:
        if not timing.measured:
            lines.append([timing.name, "-"])
            notes.append(_note(timing))
            continue
        same_runs = first.measured and len(first.seconds) == len(timing.seconds)
        ratio = f"{timing.ratio_to(first):.2f}" if same_runs else "-"
        resident = f"{median(timing.resident) / 2**20:.1f}" if timing.resident else "-"
        lines.append([timing.name, f"{median(timing.seconds):.3f}", f"{min(timing.seconds):.3f}", ratio, resident])
    return _table(title, lines, notes)


def workers_tables(spreads: Sequence[workers.Spread], memories: Sequence[workers.Memory]) -> str:
    """How connections spread over workers, and what a worker takes of memory."""
    spread, memory = workers.tables(spreads, memories)
    title = f"spread of {workers.CONNECTIONS} kept connections over {WORKERS} workers"
    first = _table(title, spread, [_note(row) for row in spreads if not workers.measured(row)])
    notes = [_note(row) for row in memories if not workers.measured(row)]
    return f"{first}\n{_table('memory, a FastAPI application of 30 routes', memory, notes)}"


def reload_table(rows: Sequence[reload.ReloadRow]) -> str:
    """What reloads under load cost."""
    notes = [_note(row) for row in rows if not row.measured]
    for row in rows:
        for what, failures in (("good reloads", row.failures), ("broken code", row.broken_failures)):
            if failures:
                kinds = ", ".join(f"{number} {kind}" for kind, number in failures.most_common())
                notes.append(f"{row.name}, {what}: {kinds}")
    return _table("reload under load, two good ones and one with broken code", reload.cells(rows), notes)


def _note(row: Row | Timing | workers.Spread | workers.Memory | reload.ReloadRow) -> str:
    return f"{row.name}: left out, {row.skipped}" if row.skipped else f"{row.name}: FAULT, {row.fault}"


def _table(title: str, lines: list[list[str]], notes: list[str]) -> str:
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(lines[0]))]
    text = [f"## {title}", ""]
    for name, *cells in lines:
        right = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False))  # a row left out is short
        text.append("  ".join([name.ljust(widths[0]), *right]).rstrip())
    return "\n".join([*text, *(["", *notes] if notes else []), ""])


def environment() -> dict[str, Any]:
    """What a figure means nothing without: interpreter, system and versions, and no name of the machine."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    system = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), "system": system, "versions": versions}


def throughput_data(comparison: Comparison) -> dict[str, Any]:
    """Everything that was measured, slot by slot, with the ratios that the table shows."""
    references = {name: comparison.row(name) for name in comparison.workload.against}
    rows = []
    for row in comparison.rows:
        ratios = {name: row.ratio_to(other) for name, other in references.items() if other and row.measured}
        rows.append(asdict(row) | {"ratios": ratios})
    return {"title": comparison.workload.title, "rows": rows, "load": asdict(comparison.load)}


def startup_data(title: str, timings: Sequence[Timing]) -> dict[str, Any]:
    return {"title": title, "rows": [asdict(timing) for timing in timings]}
