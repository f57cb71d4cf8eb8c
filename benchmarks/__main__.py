"""The one entry: `python -m benchmarks edge|wsgi|tls|startup|channels|stores|workers|reload|traces|all`."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import channels, load, reload, report, startup, traces, workers, wrk
from benchmarks.server import Cores
from benchmarks.stacks import EDGE, STARTUP, TLS, WSGI, Workload
from benchmarks.throughput import Connect, Settings, compare
from benchmarks.worker_stacks import THROUGHPUT

_WORKLOADS: dict[str, tuple[Workload, ...]] = {
    "edge": EDGE,
    "wsgi": (WSGI,),
    "tls": (TLS,),
    "startup": (),
    "channels": (),
    "stores": (),
    "workers": (),
    "reload": (),
    "traces": (),
    "all": (*EDGE, WSGI, TLS),
}


def between(low: float, high: float, kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A number within bounds, so that no run takes for ever or floods the machine."""

    def parse(text: str) -> Any:
        number = kind(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return number

    parse.__name__ = kind.__name__  # argparse names it when the text is no number at all
    return parse


def main(arguments: list[str] | None = None) -> int:
    """0 when every row that can run here was measured, 1 when one failed, 2 for wrong usage, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    parser.add_argument("what", choices=_WORKLOADS)
    parser.add_argument("--seconds", type=between(0.2, 60, float), default=2.0, help="length of a slot (default 2)")
    parser.add_argument("--rounds", type=between(1, 100, int), default=7, help="slots per stack (default 7)")
    parser.add_argument("--connections", type=between(1, 1000, int), default=32, help="kept open at once (default 32)")
    parser.add_argument("--runs", type=between(1, 100, int), default=15, help="starts per stack (default 15)")
    parser.add_argument("--tool", choices=("python", "wrk"), default="python", help="what makes the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured to FILE")
    options = parser.parse_args(arguments)
    if options.tool == "wrk" and shutil.which("wrk") is None:
        parser.error("--tool wrk: there is no wrk on the PATH")
    connect: Connect = wrk.connect if options.tool == "wrk" else load.connect
    settings = Settings(options.seconds, options.rounds, options.connections, connect, Cores.available())
    # SIGTERM takes the way of Ctrl-C, so that what was started is stopped then as well.
    signal.signal(signal.SIGTERM, _interrupt)
    results: list[dict[str, Any]] = []
    try:
        # Servers log into this folder; without the leading directory's symbolic links, which macOS's has.
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
            faults = _measure(options.what, settings, options.runs, Path(name).resolve(), results)
    except KeyboardInterrupt:
        _say("interrupted; every server is stopped")
        return 130
    if options.json:
        measured = {"settings": _plain(options), "environment": report.environment(), "results": results}
        options.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 1 if faults else 0


def _measure(what: str, settings: Settings, runs: int, folder: Path, results: list[dict[str, Any]]) -> bool:
    """Measure, print each table as soon as it is there, add its data to `results`; whether any row is a fault."""
    if settings.cores.load is None:
        _say("cores cannot be chosen here or there is only one: server and load disturb each other")
    faults = False
    for workload in _WORKLOADS[what]:
        comparison = compare(workload, settings, folder, _say)
        print(report.throughput_table(comparison), flush=True)
        results.append(report.throughput_data(comparison))
        faults |= any(row.fault for row in comparison.rows)
    if what in ("startup", "all"):
        for title, measure in ((STARTUP.title, startup.time_servers), ("command line", startup.time_commands)):
            timings = measure(runs, settings.cores, folder, _say)
            print(report.startup_table(title, timings), flush=True)
            results.append(report.startup_data(title, timings))
            faults |= any(timing.fault for timing in timings)
    if what in ("channels", "all"):
        measured = channels.compare(settings.seconds, settings.rounds, folder, _say)
        print(channels.table(measured), flush=True)
        results.append(channels.data(measured))
        faults |= any(row.fault for row in measured)
    if what in ("stores", "all"):
        stores = import_module("benchmarks.stores")  # its drivers are nobody else's
        compared = stores.compare(settings.seconds, settings.rounds, folder, _say)
        print(stores.table(compared), flush=True)
        results.append(stores.data(compared))
    if what in ("workers", "all"):
        faults |= _measure_workers(settings, folder, results)
    if what in ("reload", "all"):
        reloaded = reload.measure(settings.seconds, settings.rounds, folder, _say)
        print(report.reload_table(reloaded), flush=True)
        results.append(reload.data(reloaded))
        faults |= any(row.fault for row in reloaded)
    if what in ("traces", "all"):
        faults |= _measure_traces(settings, folder, results)
    return faults


def _measure_traces(settings: Settings, folder: Path, results: list[dict[str, Any]]) -> bool:
    found = traces.costs(settings.rounds)
    print(traces.table(found), flush=True)
    results.append(traces.data(found))
    faults = False
    for full in (False, True):
        comparison = traces.throughput(settings, folder, _say, full=full)
        print(report.throughput_table(comparison), flush=True)
        results.append(report.throughput_data(comparison))
        faults |= any(row.fault for row in comparison.rows)
    return faults


def _measure_workers(settings: Settings, folder: Path, results: list[dict[str, Any]]) -> bool:
    """Servers with several workers use all cores."""
    comparison = compare(THROUGHPUT, replace(settings, cores=Cores(None, None)), folder, _say)
    print(report.throughput_table(comparison), flush=True)
    results.append(report.throughput_data(comparison))
    spreads = workers.measure_spread(settings.rounds, folder, _say)
    memories = workers.measure_memory(folder, _say)
    print(report.workers_tables(spreads, memories), flush=True)
    results.extend(workers.data(spreads, memories))
    faults = [row.fault for row in comparison.rows] + [row.fault for row in spreads] + [row.fault for row in memories]
    return any(faults)


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(options).items() if key != "json"}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
