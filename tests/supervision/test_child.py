"""A child process that the event loop runs: stopped by a signal, or killed after its grace."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from pywatt_host.supervision.child import Child
from pywatt_host.supervision.process import StopPolicy
from tests.hosting import run
from tests.processes import PATIENCE

STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


@pytest.mark.parametrize(("setup", "grace", "killed"), [("", PATIENCE, False), (STUBBORN, 0.05, True)])
def test_a_child_that_ignores_the_signal_is_killed_after_the_grace(setup: str, grace: float, killed: bool) -> None:
    code = f"{setup}import sys, time; print('ready', file=sys.stderr, flush=True); time.sleep(60)"

    async def main() -> None:
        ready = asyncio.Event()
        reading, writing = os.pipe()
        child = await Child.start([sys.executable, "-c", code], stderr=writing)
        os.close(writing)
        child.read_lines(os.fdopen(reading, "rb", buffering=0), lambda line: ready.set())
        await ready.wait()
        assert await child.stop(StopPolicy(signal.SIGTERM, grace)) is killed
        assert await child.wait() == (-signal.SIGKILL if killed else -signal.SIGTERM)

    run(main)
