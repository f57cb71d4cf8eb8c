"""How modules are started, started again, and what they write."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from pywatt_host.channels.wire import Wire
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.observability.logs import LogStream
from pywatt_host.protocol.codec import Lines
from pywatt_host.supervision.child import start
from pywatt_host.supervision.launch import Launch, launch_of
from pywatt_host.supervision.output import KEPT, Output
from pywatt_host.supervision.restarts import Backoff, Ending, Policy, again
from tests.hosting import run
from tests.processes import PATIENCE

WORKSPACE = Workspace.model_validate(
    {
        "modules": {
            "ours": {"manifest": "users/pywatt.yaml", "profile": "dev", "env": {"MODE": "x", "PYWATT__A": "y"}},
            "theirs": {"command": ["./program", "-v"], "working_dir": "legacy"},
        }
    }
)


def test_no_module_inherits_a_secret_or_what_speaks_to_up_alone() -> None:
    environ = {
        "PATH": "/bin",
        "TOKEN": "a secret",
        "PYWATT_PROFILE": "prod",
        "NOTIFY_SOCKET": "/n",
        "LISTEN_FDS": "1",
        "PYWATT__SERVER__LISTEN": ":1",
    }
    ours = launch_of("ours", WORKSPACE.modules["ours"], WORKSPACE, environ, ["TOKEN"])
    assert dict(ours.environ) == {
        "PATH": "/bin",
        "MODE": "x",
        "PYWATT_MODULE_ID": "ours",
        "FORWARDED_ALLOW_IPS": "127.0.0.1",
        "PYWATT_DEV_SERVICES": str(WORKSPACE.directory),
    }
    theirs = launch_of("theirs", WORKSPACE.modules["theirs"], WORKSPACE, environ, ["TOKEN"])
    assert dict(theirs.environ) == {"PATH": "/bin", "PYWATT_MODULE_ID": "theirs"}
    assert "a secret" not in repr((ours, theirs))


def test_a_manifest_is_run_by_this_python_and_a_command_as_it_is() -> None:
    ours = launch_of("ours", WORKSPACE.modules["ours"], WORKSPACE, {})
    manifest = str(WORKSPACE.directory / "users/pywatt.yaml")
    assert ours.argv() == [
        *(sys.executable, "-P", "-m", "pywatt_host", "run", "--orchestrated", "--profile", "dev", manifest)
    ]
    theirs = launch_of("theirs", WORKSPACE.modules["theirs"], WORKSPACE, {})
    assert theirs.argv()[-2:] == ["./program", "-v"]
    assert theirs.directory == WORKSPACE.directory / "legacy"


def ended(code: int, *, announced: bool = True, lived: float = 5.0, why: str = "") -> Ending:
    return Ending(code, announced, lived, why)


@pytest.mark.parametrize(
    ("policy", "ending", "result"),
    [
        ("always", ended(0), True),
        ("on-failure", ended(0), False),
        ("on-failure", ended(3), True),
        ("on-failure", ended(-9), True),
        ("on-failure", ended(0, why="no announce"), True),
        ("no", ended(1), False),
    ],
)
def test_the_policy_decides_who_is_started_again(policy: Policy, ending: Ending, result: bool) -> None:
    assert again(policy, ending) is result


def test_the_first_restart_of_what_had_run_is_quick_and_crash_loops_get_slower() -> None:
    backoff = Backoff()
    assert backoff.after(ended(1)) == 0.1
    for expected in (1, 2, 4, 8, 16, 30, 30):
        assert 0.8 * expected <= backoff.after(ended(1)) <= 1.2 * expected
    assert backoff.after(ended(1, lived=61)) == 0.1
    assert Backoff().after(ended(1, announced=False)) >= 0.8


def test_an_ending_says_how_it_was() -> None:
    assert str(ended(3)) == "exit code 3"
    assert str(ended(-9)) == "killed by SIGKILL"
    assert str(ended(-9, why="no announce within 5s")) == "no announce within 5s; killed by SIGKILL"
    assert str(ended(-200)) == "killed by signal 200"


# Processes ----------------------------------------------------------------------------------------------------------


def test_a_child_is_given_pipes_its_lines_are_bounded_and_nothing_of_its_group_stays(tmp_path: Path) -> None:
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
            child = await start(launch, wire, lines.append)
            wire.write(b"hello\n")
            assert await child.wait() == 4
            await over.wait()
            wire.end(None)
            while _group_lives(child.pid):  # noqa: ASYNC110 -- whoever inherits them has to reap them
                await asyncio.sleep(0.01)

    run(main)
    assert [len(line) for line in lines] == [64 * 1024, 5, 4]
    assert said == ["heartbeat_ack"]


@pytest.mark.skipif(sys.platform != "linux", reason="parent-death signals are Linux's")
def test_a_foreign_program_dies_with_its_parent_and_one_that_is_not_there_is_said(tmp_path: Path) -> None:
    async def main() -> None:
        for command, code in ((("/no/such/program",), 127), ((sys.executable, "-c", "exit(3)"), 3)):
            lines: list[bytes] = []
            wire = Wire("stdio", Lines(1000), lambda message: None, lambda why: None)
            child = await start(Launch(command, tmp_path, dict(os.environ)), wire, lines.append)
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
        while _alive(grandchild):  # noqa: ASYNC110 -- it is nobody's child here
            await asyncio.sleep(0.01)

    run(gone)


def _group_lives(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# Output -------------------------------------------------------------------------------------------------------------


def written(style: str, *lines: bytes, colour: bool = False) -> str:
    read, write = os.pipe()
    output = Output(LogStream(write), style, colour, lambda text: text.replace("hidden", "***"))  # type: ignore[arg-type]
    output.declare("users", 1)
    output.declare("b", 2)
    for line in lines:
        output.write("users", 1, line)
        output.write("b", 2, line)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        return file.read().decode()


def test_on_a_terminal_lines_are_prefixed_and_harmless() -> None:
    assert written("console", b"hidden \x1b[2Jtext\r") == "users | *** \\x1b[2Jtext\nb.2   | *** \\x1b[2Jtext\n"
    assert written("console", b"x", colour=True).startswith("\x1b[36musers\x1b[0m | x\n")
    record = b'{"time":"2026-11-23T01:02:03.004Z","level":"info","logger":"app","message":"hi","n":1}'
    assert written("console", record).splitlines()[0] == "users | 01:02:03.004 info app: hi n=1"


def test_in_json_every_line_is_an_object_that_names_its_module() -> None:
    first, second, third, _ = (
        json.loads(line) for line in written("json", b'{"message":"a hidden"}', b"plain \xff").splitlines()
    )
    assert first == {"message": "a ***", "module": "users"}
    assert second == {"message": "a ***", "module": "b", "replica": 2}
    assert (third["message"], third["level"], third["module"]) == ("plain \\xff", "info", "users")


def test_the_last_lines_are_kept_and_those_who_follow_get_each_new_one() -> None:
    async def main() -> None:
        output = Output(LogStream(os.open(os.devnull, os.O_WRONLY)), "json", False, str)
        output.declare("users", 1)
        with output.following() as lines:
            for number in range(KEPT + 5):
                output.write("users", 1, str(number).encode())
            assert [line.text for line in output.tail("users", 2)] == ["1003", "1004"]
            assert len(output.tail(None, 10_000)) == KEPT
            assert output.tail(None, 0) == []
            assert (await lines.get()).text == "5"  # the oldest were dropped

    run(main)
