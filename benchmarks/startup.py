"""Start-up: from starting a process to its first 200, memory when idle, and what the command line takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.manifests import LONG, long_manifest
from benchmarks.server import Cores, ServerError, environment, pinned, started
from benchmarks.stacks import STARTUP, Stack, installed

COMMAND_TIMEOUT = 60.0  # seconds
VALIDATIONS = 1000
VALIDATION_RUNS = 3  # of VALIDATIONS each


@dataclass(slots=True)
class Timing:
    """One thing that was timed again and again, in seconds; `resident` is memory in octets after the first 200."""

    name: str
    fault: str | None = None
    skipped: str | None = None
    seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        return self.fault is None and self.skipped is None and bool(self.seconds)

    def ratio_to(self, other: Timing) -> float:
        """The median of the ratios of each round."""
        return median(mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True))


def time_servers(runs: int, cores: Cores, folder: Path, say: Callable[[str], None]) -> list[Timing]:
    """Start each stack of STARTUP `runs` times on a fresh port, in rotating order, one at a time.

    One more round comes first and is not counted: it fills the bytecode and page caches.
    """
    timings = {stack.name: Timing(stack.name, skipped=_why_skipped(stack)) for stack in STARTUP.stacks}
    for number in range(-1, runs):
        say(f"start-up: run {number + 1} of {runs}" if number >= 0 else "start-up: warm-up")
        by = max(number, 0) % len(STARTUP.stacks)
        for stack in (*STARTUP.stacks[by:], *STARTUP.stacks[:by]):
            timing = timings[stack.name]
            if timing.skipped or timing.fault:
                continue
            try:
                with pinned(cores.load), started(stack, folder, cores.server) as server:
                    seconds, resident = server.wait_ready(), server.resident()
            except ServerError as exc:
                timing.fault = str(exc)
                continue
            if number >= 0:
                timing.seconds.append(seconds)
                timing.resident += [resident] if resident is not None else []
    return list(timings.values())


def _why_skipped(stack: Stack) -> str | None:
    missing = stack.missing()
    return f"{missing} is not installed" if missing else None


@dataclass(frozen=True, slots=True)
class Command:
    """A command that runs to its end; where `reports`, it prints the seconds that count instead of its own time."""

    name: str
    arguments: tuple[str, ...]
    runs: int
    needs: str | None = None
    reports: bool = False


def time_commands(runs: int, cores: Cores, folder: Path, say: Callable[[str], None]) -> list[Timing]:
    """Time the verbs of the host's command line beside an interpreter that does nothing, interleaved."""
    manifest = folder / "long.yaml"
    manifest.write_text(long_manifest())
    host, needs = ("-m", "pywatt_host"), "pywatt_host.__main__"
    validate = (*host, "validate", "--no-import", str(manifest))
    validations = ("-m", "benchmarks.validations", str(manifest), str(VALIDATIONS))
    commands = (
        Command("python, nothing done", ("-c", "pass"), runs),
        Command("--help", (*host, "--help"), runs, needs),
        Command(f"validate --no-import, {LONG} lines", validate, runs, needs),
        Command(f"{VALIDATIONS} validations in one process", validations, min(runs, VALIDATION_RUNS), needs, True),
    )
    timings = [Timing(command.name) for command in commands]
    for number in range(-1, runs):
        say(f"commands: run {number + 1} of {runs}" if number >= 0 else "commands: warm-up")
        for command, timing in zip(commands, timings, strict=True):
            if command.needs and not installed(command.needs):
                timing.skipped = f"{command.needs} is not installed"
            # What takes seconds and times itself needs no warming.
            if timing.skipped or timing.fault or number >= command.runs or (number < 0 and command.reports):
                continue
            try:
                seconds = _run(command, cores, folder)
            except ServerError as exc:
                timing.fault = str(exc)
                continue
            if number >= 0:
                timing.seconds.append(seconds)
    return timings


def _run(command: Command, cores: Cores, folder: Path) -> float:
    """Raises ServerError if the command fails, with what it wrote."""
    start = time.perf_counter()
    with pinned(cores.server):
        try:
            done = subprocess.run(
                [sys.executable, *command.arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd=folder,
                env=environment(folder),
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise ServerError(f"not done in {COMMAND_TIMEOUT:g} s") from exc
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ServerError(f"left with {done.returncode}: {(done.stderr or done.stdout)[-2000:].strip()}")
    return float(done.stdout) if command.reports else seconds
