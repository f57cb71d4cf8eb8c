"""What applications see of workers: secrets, messages, metrics and limits, and the ways to start one."""

from __future__ import annotations

import json
import os
import signal
import sys
import textwrap
from contextlib import ExitStack

import pytest

from tests.process.supervised import (
    APP,
    Load,
    Supervised,
    connections_to_each,
    manifest,
    only_of,
    until,
)
from tests.processes import Connection, Project


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


# Secrets and metrics of the application -------------------------------------------------------------------------------

SERVICES = """
    import os

    async def create_app(state):
        jobs = state.metrics.counter("jobs", "Jobs taken.")
        waiting = state.metrics.gauge("waiting", "Jobs that wait.")
        newest = state.metrics.gauge("newest", "The newest job.", mode="max")

        @state.on_message("double")
        async def double(message):
            return {"twice": 2 * message["n"], "pid": os.getpid()}

        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                raise RuntimeError("declined")
            path = scope["path"]
            status, body = 200, b"%d" % os.getpid()
            if path == "/secret":
                body += b" " + (await state.get_secret("KEY")).expose_secret().encode()
            elif path == "/work":
                jobs.inc()
                waiting.set(3)
                newest.set(os.getpid())
            elif path == "/health":
                status = 404
            headers = [(b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        return app
"""


def test_a_secret_that_changes_is_in_use_in_every_worker(project: Project) -> None:
    project.write("main.py", SERVICES)
    project.write("mounted/KEY", "the first value")
    secrets = {"rotate": True, "sources": [{"directory": "mounted"}], "keys": ["KEY"]}
    manifest(project, app="main:create_app", secrets=secrets)
    running = Supervised(project)

    def values() -> set[str]:
        answers = [running.host.get("/secret", running.address).body.decode() for _ in range(16)]
        assert len({answer.split(" ")[0] for answer in answers}) == 2
        return {answer.partition(" ")[2] for answer in answers}

    assert values() == {"the first value"}
    project.write("mounted/KEY", "the second value")
    until(lambda: values() == {"the second value"})
    victim = running.workers()[1]
    os.kill(victim, signal.SIGKILL)
    running.until_workers(without=[victim])
    assert values() == {"the second value"}
    project.write("mounted/KEY", "the third value")
    assert project.cli("rotate", "KEY").returncode == 0
    assert values() == {"the third value"}
    assert running.host.stop() == 0


def test_a_message_is_handled_by_one_worker_after_the_other(project: Project) -> None:
    project.write("main.py", SERVICES)
    manifest(project, app="main:create_app")
    running = Supervised(project)
    answers = [json.loads(project.cli("send", project.folder.name, "double", '{"n": 4}').stdout) for _ in range(4)]
    assert {answer["twice"] for answer in answers} == {8}
    assert {answer["pid"] for answer in answers} == {*running.workers().values()}


def test_metrics_of_the_application_are_those_of_all_workers(project: Project) -> None:
    project.write("main.py", SERVICES)
    manifest(project, app="main:create_app")
    running = Supervised(project)
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(running.address)) for _ in range(16)]
        pids = {int(connection.request("GET", "/work").body) for connection in connections}
        assert len(pids) == 2
        until(lambda: running.metric("jobs_total") == 16)
        assert running.metric("waiting") == 6  # the sum
        assert running.metric("newest") == max(pids)
    os.kill(max(pids), signal.SIGKILL)
    running.until_workers(without=[max(pids)])
    assert running.metric("jobs_total") == 16  # what is counted stays
    until(lambda: running.metric("waiting") == 3)  # a gauge ends with its process
    assert running.reload()["ok"]
    assert running.metric("jobs_total") == 16


# Limits, numbers and ways to start ------------------------------------------------------------------------------------


def test_limits_hold_for_all_workers_together(served: Project) -> None:
    endpoints = [{"path": "/pid", "rate_limit": "20/h"}, {"path": "/sleep/{s}", "concurrency": 3}, {"path": "/version"}]
    manifest(served, endpoints=endpoints)
    running = Supervised(served)
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(running.address)) for _ in range(8)]
        statuses = [connections[number % 8].request("GET", "/pid").status for number in range(48)]
        assert statuses.count(200) == 20
        assert statuses.count(429) == 28
        for connection in connections:
            connection.head("GET", "/sleep/0.5")
        slow = [connection.response().status for connection in connections]
        assert slow.count(200) in (3, 4)  # wrong by the number of workers less one at most
        assert slow.count(503) == 8 - slow.count(200)
        assert connections[0].request("GET", "/version").status == 200
    victim = running.workers()[1]
    os.kill(victim, signal.SIGKILL)
    running.until_workers(without=[victim])
    assert running.host.get("/pid").status == 429  # the next worker knows what the last one has counted


def test_the_number_of_workers_is_that_of_the_cores(served: Project) -> None:
    manifest(served, {"workers": "auto", "reload": "signal"})
    running = Supervised(served)
    assert running.host.ready["workers"] == len(running.workers()) >= 1


def test_one_worker_with_reload_has_a_supervisor_too(served: Project) -> None:
    manifest(served, {"workers": 1, "reload": "signal"})
    running = Supervised(served)
    assert list(running.workers()) == [1]
    assert int(running.host.get("/pid").body) == running.workers()[1] != running.host.child.pid
    assert running.reload()["ok"]
    assert running.host.stop() == 0


SCRIPT = """
    import os
    from pywatt_host import pywatt_module

    VERSION = "one"

    @pywatt_module(manifest={"server": {"listen": "127.0.0.1:0"}})
    def create_app(state):
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                raise RuntimeError("declined")
            body = f"{VERSION} {os.getpid()}".encode()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": body})
        return app
"""


def test_a_decorated_function_runs_in_workers_and_reloads(project: Project) -> None:
    project.write("notes.py", SCRIPT)
    host = project.start([sys.executable, "notes.py", "--log-format", "json"], env={"PYWATT__SERVER__WORKERS": "2"})
    assert host.ready["workers"] == 2
    found = {host.get("/").body.decode() for _ in range(16)}
    assert {answer.split()[0] for answer in found} == {"one"}
    project.write("notes.py", SCRIPT.replace('"one"', '"two"'))
    done = project.cli("reload")
    assert done.returncode == 0, done.stderr
    assert {host.get("/").body.split()[0] for _ in range(8)} == {b"two"}
    project.write("notes.py", "raise RuntimeError('broken')")
    done = project.cli("reload")
    assert done.returncode in (2, 3)
    assert "broken" in done.stderr
    assert host.get("/").body.startswith(b"two")
    assert host.stop() == 0
    assert host.stdout == b""


def test_a_decorated_function_may_say_itself_how_many_workers(project: Project) -> None:
    project.write("notes.py", SCRIPT.replace('"listen"', '"workers": 2, "listen"'))
    host = project.host("notes.py")
    assert host.ready["workers"] == 2
    assert host.get("/").status == 200
    assert host.stop() == 0


FLASK = """
    import os
    import threading
    from flask import Flask

    app = Flask(__name__)
    both = threading.Barrier(2)

    @app.get("/together")
    def together():
        both.wait(30)
        return str(os.getpid())

    @app.get("/pid")
    def pid():
        return str(os.getpid())
"""


def test_a_wsgi_application_has_threads_in_each_worker(project: Project) -> None:
    project.write("main.py", FLASK)
    manifest(project)
    running = Supervised(project)
    with Load(running.address) as load, ExitStack() as stack:
        pid, first = connections_to_each(running, stack).popitem()
        first.head("GET", "/together")
        found = 0
        while found != pid:
            other = stack.enter_context(Connection(running.address))
            found = int(other.request("GET", "/pid").body)
        other.head("GET", "/together")
        assert {first.response().body, other.response().body} == {str(pid).encode()}
        assert running.reload()["ok"]
        load.more(50)
    assert load.faults == []
    assert running.host.stop() == 0


def test_working_dir_and_env_with_a_secret(project: Project) -> None:
    project.write("src/inner/main.py", APP + "\n    IMPORTED = os.environ['TOKEN']\n")
    keys = {"import_path": "main:app", "working_dir": "src/inner", "env": {"TOKEN": "token=${secret:TOKEN}"}}
    manifest(project, app=keys, secrets=["TOKEN"])
    running = Supervised(project, TOKEN="a-long-token")
    assert running.host.get("/env/TOKEN").body == b"token=a-long-token"
    victim = running.workers()[1]
    os.kill(victim, signal.SIGKILL)
    running.until_workers(without=[victim])
    assert {running.host.get("/env/TOKEN").body for _ in range(8)} == {b"token=a-long-token"}
    assert running.reload()["ok"]
    assert running.host.get("/env/TOKEN").body == b"token=a-long-token"
    assert not [line for line in running.host.lines if "a-long-token" in line]


@pytest.mark.slow
def test_an_import_that_starts_threads_is_spawned(served: Project) -> None:
    text = textwrap.dedent(APP)
    (served.folder / "main.py").write_text(
        f"import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n{text}"
    )
    running = Supervised(served)
    assert running.host.wait_for("its workers are spawned and not forked")
    with Load(running.address) as load:
        victim = running.workers()[1]
        os.kill(victim, signal.SIGKILL)
        running.until_workers(without=[victim])
        before = {*running.workers().values()}
        assert running.reload()["ok"]
        assert not {*running.workers().values()} & before
        load.more(50)
    only_of(load, {victim})
    assert running.host.stop() == 0
    assert running.processes() == set()
