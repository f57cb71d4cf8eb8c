"""Reloads that are refused: the old workers serve on, and everybody is told why."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.process.supervised import APP, Load, Supervised, manifest, until, version
from tests.processes import Project, allowed


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


def yaml_syntax(project: Project) -> None:
    project.write("pywatt.yaml", "app: [main:app")


def unknown_key(project: Project) -> None:
    manifest(project, servr={})


def refused_key(project: Project) -> None:
    manifest(project, module={"id": "other"})


def missing_secret(project: Project) -> None:
    manifest(project, secrets=["NOWHERE"])


def unset_variable(project: Project) -> None:
    manifest(project, config={"x": "${UNSET_VARIABLE}"})


def import_error(project: Project) -> None:
    project.write("main.py", "import nowhere_to_be_found")


def syntax_error(project: Project) -> None:
    project.write("main.py", "def app(:")


def factory_raises(project: Project) -> None:
    project.write("main.py", "def app(state): raise RuntimeError('no database')")
    manifest(project, app={"import_path": "main:app", "factory": True})


def lifespan_fails(project: Project) -> None:
    project.write(
        "main.py",
        """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no lifespan today"})
        """,
    )


def never_healthy(project: Project) -> None:
    manifest(project, {"workers": {"count": 2, "start_limit": "1s"}}, health={"interval": "100ms"})
    version(project, "sick")
    text = (project.folder / "main.py").read_text()
    project.write("main.py", text.replace('await answer(send, b"", 404)', 'await answer(send, b"sick", 500)'))


def address_in_use(project: Project) -> None:
    manifest(project, {"listen": ["127.0.0.1:0", "unix:taken.sock"]})


def worker_exits(project: Project) -> None:
    project.write("main.py", "import os\ndef app(state): os._exit(7)")
    manifest(project, app={"import_path": "main:app", "factory": True})


def worker_crashes(project: Project) -> None:
    project.write("main.py", "import os, signal\ndef app(state): os.kill(os.getpid(), signal.SIGSEGV)")
    manifest(project, app={"import_path": "main:app", "factory": True})


def import_exits(project: Project) -> None:
    project.write("main.py", "import os\nos._exit(9)")


def import_hangs(project: Project) -> None:
    project.write("main.py", "import time\ntime.sleep(60)")
    manifest(project, {"workers": {"count": 2, "start_limit": "1s"}})


def missing_manifest(project: Project) -> None:
    (project.folder / "pywatt.yaml").unlink()


BAD = [
    (yaml_syntax, "manifest", 2, "pywatt.yaml:1"),
    (unknown_key, "manifest", 2, "servr"),
    (missing_manifest, "manifest", 2, "pywatt.yaml"),
    (unset_variable, "manifest", 2, "UNSET_VARIABLE"),
    (refused_key, "plan", 2, "module.id: peers and the orchestrator know"),
    (missing_secret, "secrets", 3, "NOWHERE"),
    (address_in_use, "listen", 3, "in use"),
    (import_error, "import", 3, "No module named 'nowhere_to_be_found'"),
    (syntax_error, "import", 3, "SyntaxError"),
    (import_exits, "import", 3, "exit code 9"),
    (import_hangs, "import", 3, "was not imported within 1s (server.workers.start_limit)"),
    (factory_raises, "start", 3, "no database"),
    (lifespan_fails, "start", 3, "no lifespan today"),
    (worker_exits, "start", 3, "exit code 7"),
    (worker_crashes, "start", 3, "SIGSEGV"),
    (never_healthy, "start", 3, "server.workers.start_limit"),
]


SLOW = (missing_manifest, unset_variable, syntax_error, import_exits, lifespan_fails, worker_exits, never_healthy)
CASES = [pytest.param(*case, id=case[0].__name__, marks=[pytest.mark.slow] if case[0] in SLOW else []) for case in BAD]


@pytest.mark.parametrize(("spoil", "stage", "code", "reason"), CASES)
def test_a_bad_reload_is_refused_and_the_old_serves_on(
    served: Project, spoil: Callable[[Project], None], stage: str, code: int, reason: str
) -> None:
    running = Supervised(served)
    before = running.workers()
    with Load(running.address, kept=2, fresh=1) as load, socket.socket(socket.AF_UNIX) as taken:
        taken.bind(os.fspath(served.folder / "taken.sock"))
        taken.listen()
        spoil(served)
        done = served.cli("reload")
        assert done.returncode == code, done.stderr
        assert reason in done.stderr
        assert "warning" not in done.stderr
        assert "generation 1 serves on" in done.stderr
        load.more(30)
    assert load.faults == []
    assert running.workers() == before
    status = running.status()
    assert (status["reload"]["stage"], status["reload"]["exit_code"]) == (stage, code)
    health = running.health()
    assert (health["status"], health["checks"]["reload"]["status"]) == ("degraded", "failing")
    assert reason in health["checks"]["reload"]["error"]
    assert "(reload refused)" in served.cli("ps").stdout
    (line,) = [line for line in running.host.logs if line["message"].startswith("reload: refused")]
    assert reason in line["message"]
    running.until_only(2)  # nothing of the new generation is left
    served.write("main.py", APP)
    manifest(served)
    assert running.reload()["ok"]
    assert running.health()["status"] == "healthy"
    assert running.host.stop() == 0


def test_requests_to_reload_that_come_together_share_one(served: Project) -> None:
    running = Supervised(served)
    with Load(running.address) as load:
        for _ in range(20):
            running.host.signal(signal.SIGHUP)
        assert running.reload()["ok"]
        load.more(20)
        assert running.status()["generation"] <= 4
    assert load.faults == []
    running.until_only(2)
    assert running.host.stop() == 0


def test_new_workers_that_are_killed_refuse_the_reload(served: Project) -> None:
    running = Supervised(served)
    before = running.workers()
    with Load(running.address) as load:
        verdicts: list[dict[str, Any]] = []
        asking = threading.Thread(target=lambda: verdicts.append(running.reload()))
        asking.start()
        (pid,) = until(lambda: [pid for pid in running.workers("starting").values() if pid])
        os.kill(pid, signal.SIGKILL)
        asking.join()
        load.more(20)
    assert load.faults == []
    assert (verdicts[0]["stage"], running.workers()) == ("start", before)
    assert "killed by SIGKILL" in verdicts[0]["reason"]


def test_the_traceback_of_the_application_is_told(served: Project) -> None:
    running = Supervised(served)
    served.write("main.py", "def broken():\n    return 1 / 0\nbroken()\n")
    verdict = running.reload()
    assert "ZeroDivisionError" in verdict["reason"]
    assert 'main.py", line 2, in broken' in verdict["reason"]
    running.host.wait_for("ZeroDivisionError")


def test_a_worker_whose_import_hangs_does_not_hinder_the_stop(served: Project) -> None:
    running = Supervised(served)
    served.write("main.py", "import time\ntime.sleep(60)")
    verdicts: list[dict[str, Any]] = []
    asking = threading.Thread(target=lambda: verdicts.append(running.reload()))
    asking.start()
    until(lambda: len(running.processes()) > 3)
    begun = time.monotonic()
    assert running.host.stop() == 0
    asking.join()
    assert (verdicts[0]["stage"], verdicts[0]["reason"]) == ("stopping", "the host is stopping")
    assert time.monotonic() - begun < allowed(1.0)
    assert running.processes() == set()
