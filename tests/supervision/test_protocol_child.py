"""A child process with the protocol on its pipes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from pywatt_host.channels.wire import Wire
from pywatt_host.protocol.codec import Lines
from pywatt_host.supervision.launch import Launch
from pywatt_host.supervision.protocol_child import start_protocol_child
from tests.hosting import run
from tests.processes import PATIENCE


def test_a_child_has_pipes_bounded_lines_and_leaves_no_process_of_its_group(tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "sys.stderr.write('x' * 100_000 + '\\nshort\\nlast')\n"
        'print(\'{"op": "heartbeat_ack"}\', flush=True)\n'
        "sys.exit(4 if os.getsid(0) == os.getpid() and sys.stdin.readline() else 5)\n"
    )
    lines: list[bytes] = []
    said: list[str] = []

    async def main() -> None:
        async with asyncio.timeout(PATIENCE):
            over = asyncio.Event()
            wire = Wire("stdio", Lines(1000), lambda message: said.append(message.op), lambda why: over.set())
            launch = Launch((sys.executable, "-c", code), tmp_path, dict(os.environ))
            child = await start_protocol_child(launch, wire, lines.append)
            wire.write(b"hello\n")
            assert await child.wait() == 4
            await over.wait()
            wire.end(None)
            while _group_lives(child.pid):  # noqa: ASYNC110 -- the process that inherits them reaps them
                await asyncio.sleep(0.01)

    run(main)
    assert [len(line) for line in lines] == [64 * 1024, 5, 4]
    assert said == ["heartbeat_ack"]


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
