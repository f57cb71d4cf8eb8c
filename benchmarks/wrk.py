"""The load made by wrk, for those who have it and would rather trust it than `load`."""

from __future__ import annotations

import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load import LoadError, Sample
from benchmarks.tokens import authorization

_TOTAL = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m),")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class WrkLoad:
    """One wrk process per run, with one thread; wrk only knows whole seconds."""

    def __init__(self, url: str, connections: int) -> None:
        self._url = url
        self._connections = connections

    def run(self, seconds: float) -> Sample:
        duration = max(1, round(seconds))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        token = f"Authorization: {authorization(0)}"
        command = ["wrk", "-t1", f"-c{self._connections}", f"-d{duration}s", "-H", token, self._url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=duration + 30, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = _TOTAL.search(done.stdout)
        if done.returncode or total is None:
            raise LoadError(f"wrk failed: {done.stderr or done.stdout}")
        if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            raise LoadError(f"wrong answers: {done.stdout}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Sample(int(total[1]), float(total[2]) * _SECONDS[total[3]], cpu)


@contextmanager
def connect(port: int, path: str, connections: int, tls: bool = False) -> Iterator[WrkLoad]:
    """The same shape as `load.connect`; wrk itself opens and closes the connections."""
    yield WrkLoad(f"http{'s' if tls else ''}://127.0.0.1:{port}{path}", connections)
