"""A program that the kernel kills together with its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from pywatt_host.channels.wire import Wire
from pywatt_host.protocol.codec import Lines
from pywatt_host.supervision.launch import Launch
from pywatt_host.supervision.protocol_child import start_protocol_child
from tests.hosting import run


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_foreign_program_ends_with_its_parent_and_a_missing_program_is_reported(tmp_path: Path) -> None:
    async def main() -> None:
        for command, code in ((("/no/such/program",), 127), ((sys.executable, "-c", "exit(3)"), 3)):
            lines: list[bytes] = []
            wire = Wire("stdio", Lines(1000), lambda message: None, lambda why: None)
            child = await start_protocol_child(Launch(command, tmp_path, dict(os.environ)), wire, lines.append)
            assert await child.wait() == code
            wire.end(None)
            assert lines == ([b"/no/such/program: No such file or directory"] if code == 127 else [])

    run(main)
    tether = Path(__file__).parents[2] / "pywatt_host/supervision/tether.py"
    script = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, {str(tether)!r}, str(os.getpid()), sys.executable, '-c',"
        " 'import signal, sys, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'],"
        " stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    read, write = os.pipe()
    pid = os.posix_spawn(
        sys.executable, [sys.executable, "-c", script], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    grandchild = int(os.read(read, 100))
    os.close(read)

    async def gone() -> None:
        while _alive(grandchild):  # noqa: ASYNC110 -- the process is not our child
            await asyncio.sleep(0.01)

    run(gone)


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
