"""A real `pywatt-host run` of an example, for as long as a test needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pywatt_host.manifest import load_manifest
from tests.processes import ROOT, Host, environment


def command_environment(home: Path) -> dict[str, str]:
    """For commands of ours: nothing is left behind outside of `home`, and help is as wide everywhere."""
    return environment(home, HOME=str(home), COLUMNS="80")


def started(arguments: Sequence[str], home: Path, cwd: Path = ROOT) -> Host:
    """`pywatt-host run` with these arguments; `end()` it."""
    return Host([sys.executable, "-m", "pywatt_host", "run", *arguments], cwd, command_environment(home))


@contextmanager
def running(folder: str, home: Path, *options: str) -> Iterator[Host]:
    """The example in `folder`, serving. On leaving it must stop by itself, with code 0, an empty standard output and
    no error in its log."""
    ports = ["--listen", "127.0.0.1:0"]
    if load_manifest(ROOT / folder, environ={}).server.admin is not None:
        ports += ["--set", "server.admin.listen=127.0.0.1:0"]
    host = started([folder, *ports, "--log-format", "json", *options], home)
    try:
        assert host.ready
        yield host
        assert host.stop() == 0, host.lines
        assert host.stdout == b""
        assert [entry for entry in host.logs if entry["level"] in ("error", "critical")] == []
    finally:
        host.end()
