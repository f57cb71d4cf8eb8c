"""A real `pywatt-host run` on free ports, for the tests of examples and documents."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds that anything may take on a machine that is busy


def environment(home: Path) -> dict[str, str]:
    """The process's own without what would change a manifest; nothing is left behind outside of `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYWATT")}
    search = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH", "")]))
    return {**kept, "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "PYTHONPATH": search, "COLUMNS": "80"}


class RunningHost:
    """A host process that has said that it is ready; `lines` is what it wrote to standard error so far."""

    def __init__(self, arguments: Sequence[str], home: Path, cwd: Path = ROOT) -> None:
        self.lines: list[str] = []
        self._new: queue.Queue[str | None] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pywatt_host", "run", *arguments],
            cwd=cwd,
            env=environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._new.put(line.rstrip("\n"))
        self._new.put(None)

    def line_with(self, text: str) -> str:
        """The next line that holds `text`. Fails with everything written when the process ends without it."""
        while True:
            line = self._new.get(timeout=PATIENCE)
            assert line is not None, f"no line with {text!r} in:\n" + "\n".join(self.lines)
            self.lines.append(line)
            if text in line:
                return line

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._new.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return code

    def output(self) -> str:
        """All of standard output, once stopped."""
        assert self._process.stdout is not None
        return self._process.stdout.read()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()


class Ready:
    """What the ready line says."""

    def __init__(self, host: RunningHost, document: dict[str, Any]) -> None:
        self.host = host
        self.url: str = document["listen"][0]
        self.admin: str | None = next(iter(document.get("admin", ())), None)
        self.module: str = document["module"]


@contextmanager
def running(folder: str, home: Path, *options: str) -> Iterator[Ready]:
    """The example in `folder`, served. On leaving it must stop by itself, with code 0, an empty standard output and
    no error in its log."""
    host = RunningHost([folder, "--listen", "127.0.0.1:0", "--log-format", "json", *options], home)
    try:
        yield Ready(host, json.loads(host.line_with('"event":"ready"')))
        code = host.stop()
        log = [json.loads(line) for line in host.lines]
        assert code == 0, host.lines
        assert host.output() == ""
        assert [entry for entry in log if entry["level"] not in ("debug", "info", "warning")] == []
    finally:
        host.close()
