"""A host with workers when one of them, what has imported their code, or the supervisor ends or stands still."""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import ExitStack

import pytest

from tests.process.supervised import (
    APP,
    Load,
    Supervised,
    alive,
    block,
    connections_to_each,
    manifest,
    only_of,
    until,
    until_refused,
)
from tests.processes import Connection, Project, allowed

REPLACED = 2.0  # seconds within which a worker that has ended is replaced
ORPHANS = 10.0  # seconds after which nothing is left of a host whose supervisor was killed


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


# Workers that end or stand still --------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix:app.sock"])
def test_a_killed_worker_is_replaced_and_others_lose_nothing(served: Project, address: str) -> None:
    manifest(served, {"listen": address})
    running = Supervised(served)
    with Load(running.address) as load:
        victim = running.workers()[1]
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        running.until_workers(without=[victim])
        assert time.monotonic() - begun < allowed(REPLACED)
        load.more(200)
    only_of(load, {victim})
    assert running.host.wait_for("another one starts in its place")
    assert running.host.stop() == 0


def test_a_stopped_worker_is_replaced_after_ping_limit(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "ping_limit": "1s"}})
    running = Supervised(served)
    with Load(running.address) as load:
        victim = running.workers()[1]
        begun = time.monotonic()
        os.kill(victim, signal.SIGSTOP)
        running.until_workers(without=[victim])
        assert time.monotonic() - begun < allowed(1.0 + REPLACED)
        load.more(200)
    only_of(load, {victim})
    assert running.metric('pywatt_worker_restarts_total{reason="blocked"}') == 1
    assert running.host.stop() == 0


def test_a_worker_that_goes_on_before_ping_limit_is_kept(served: Project) -> None:
    manifest(served, {"admin": {"listen": "127.0.0.1:0"}})
    running = Supervised(served)
    (admin,) = running.host.ready["admin"]
    with Load(running.address) as load:
        victim = running.workers()[1]
        os.kill(victim, signal.SIGSTOP)
        until(lambda: running.host.get("/health", admin).json()["status"] == "degraded")
        os.kill(victim, signal.SIGCONT)
        until(lambda: running.host.get("/health", admin).json()["status"] == "healthy")
        load.more(100)
    assert load.faults == []
    assert victim in running.workers().values()


def test_probes_answer_while_every_worker_is_blocked(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "ping_limit": "2s"}})
    running = Supervised(served)
    with ExitStack() as stack:
        connections = connections_to_each(running, stack)
        block(running, connections)
        waiting = stack.enter_context(Connection(running.address))
        waiting.head("GET", "/pid")  # it is served once a worker can
        assert [running.host.get(path).status for path in ("/livez", "/metrics", "/readyz", "/health")] == [
            200,
            200,
            503,
            503,
        ]
        begun = time.monotonic()
        running.until_workers(without=connections)
        assert time.monotonic() - begun < allowed(2.0 + REPLACED)
        assert waiting.response().status == 200
        assert running.host.get("/readyz").status == 200


@pytest.mark.slow
def test_one_blocked_worker_keeps_nobody_else_waiting(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "ping_limit": "5s"}})
    running = Supervised(served)
    with ExitStack() as stack:
        pid, connection = connections_to_each(running, stack).popitem()
        block(running, {pid: connection})
        with Load(running.address) as load:
            running.until_workers(without=[pid])
            load.more(100)
    assert load.faults == []
    assert load.slowest < allowed(0.8)
    assert running.host.wait_for("does not answer; others accept connections in its place")


def test_a_worker_that_ends_by_itself_is_replaced(served: Project) -> None:
    running = Supervised(served)
    before = running.workers()
    with running.host.connect() as connection:
        connection.head("GET", "/exit/7")
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.response()
    assert "exit code 7" in running.host.wait_for("another one starts in its place")
    after = running.until_workers(without={*before.values()} - {*running.workers().values()})
    assert len({*before.values()} & {*after.values()}) == 1
    assert running.metric('pywatt_worker_restarts_total{reason="ended"}') == 1


def test_workers_that_never_start_end_the_start(served: Project) -> None:
    served.write("main.py", "import os\ndef app(state): os._exit(7)\n")
    manifest(served, app={"import_path": "main:app", "factory": True})
    host = served.host()
    assert host.wait() == 3
    assert "exit code 7" in host.logs[-1]["message"]
    assert len([line for line in host.logs if line["level"] == "critical"]) == 1


def test_a_crash_loop_is_told_and_the_others_serve_on(served: Project) -> None:
    manifest(served, {"admin": {"listen": "127.0.0.1:0"}})
    running = Supervised(served)
    (admin,) = running.host.ready["admin"]
    steady = running.workers()[2]
    with Load(running.address) as load:
        victims: list[int] = []
        while len(victims) < 5:
            victims.append(until(lambda: running.workers().get(1)))
            os.kill(victims[-1], signal.SIGKILL)
            until(lambda: running.workers().get(1) != victims[-1])
        running.host.wait_for("workers end again and again soon after their start")
        load.more(50)
        health = running.host.get("/health", admin).json()
        assert (health["status"], health["checks"]["workers"]["status"]) == ("degraded", "failing")
    only_of(load, {*victims}, fresh=5)
    assert running.workers()[2] == steady
    assert running.metric("pywatt_worker_restarts_total", admin) == 5


def test_without_its_zygote_a_host_serves_on_and_replaces(served: Project) -> None:
    running = Supervised(served)
    with Load(running.address) as load:
        os.kill(running.zygote(), signal.SIGKILL)
        running.host.wait_for("the process that has imported the code ended")
        load.more(50)
        assert load.faults == []
        for place in (1, 2):
            victim = running.workers()[place]
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            running.until_workers(without=[victim])
            assert time.monotonic() - begun < allowed(REPLACED)
        load.more(50)
    assert running.host.stop() == 0
    assert running.processes() == set()


def test_workers_drain_without_their_zygote(served: Project) -> None:
    running = Supervised(served)
    os.kill(running.zygote(), signal.SIGKILL)
    running.host.wait_for("the process that has imported the code ended")
    with running.host.connect() as connection:
        connection.head("GET", "/held/it")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        left = running.processes()
        running.host.signal()
        until_refused(running)
        running.release("it")
        assert connection.response().body == b"one"
    assert running.host.wait() == 0
    until(lambda: not any(alive(pid) for pid in left))


@pytest.mark.slow
def test_a_zygote_that_stands_still_is_replaced(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "start_limit": "4s"}})
    running = Supervised(served)
    os.kill(running.zygote(), signal.SIGSTOP)
    victim = running.workers()[1]
    os.kill(victim, signal.SIGKILL)
    running.until_workers(without=[victim])
    assert running.host.stop() == 0
    assert running.processes() == set()


# The supervisor is gone -----------------------------------------------------------------------------------------------


def gone_after_kill(running: Supervised) -> None:
    """Kill the supervisor; nothing of the host is left after a while, and its port is free."""
    left = running.processes()
    assert len(left) >= 2
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    running.host.signal(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in left), ORPHANS)
    socket.create_server((host, int(port))).close()


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_nothing_is_left_when_the_supervisor_is_killed(served: Project, start: str) -> None:
    manifest(served, {"workers": {"count": 2, "start": start}})
    gone_after_kill(Supervised(served))


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("state", ["blocked", "stopped", "working"])
def test_nothing_is_left_whatever_the_workers_do(served: Project, start: str, state: str) -> None:
    manifest(served, {"workers": {"count": 2, "start": start}})
    running = Supervised(served)
    with ExitStack() as stack:
        pid, connection = connections_to_each(running, stack).popitem()
        if state == "blocked":
            block(running, {pid: connection})
        elif state == "stopped":
            os.kill(pid, signal.SIGSTOP)
        else:
            connection.head("GET", "/sleep/60")
        gone_after_kill(running)


@pytest.mark.slow
def test_nothing_is_left_of_a_blocked_worker_without_a_zygote(served: Project) -> None:
    running = Supervised(served)
    with ExitStack() as stack:
        pid, connection = connections_to_each(running, stack).popitem()
        block(running, {pid: connection})
        zygote = running.zygote()
        os.kill(zygote, signal.SIGKILL)
        until(lambda: not alive(zygote))
        left = {*running.workers().values()}
        running.host.signal(signal.SIGKILL)
        until(lambda: not any(alive(pid) for pid in left), ORPHANS)


@pytest.mark.slow
def test_a_pause_of_the_supervisor_ends_no_worker(served: Project) -> None:
    running = Supervised(served)
    before = running.workers()
    with Load(running.address) as load:
        running.host.signal(signal.SIGSTOP)
        time.sleep(6.0)
        running.host.signal(signal.SIGCONT)
        load.more(100)
        running.health()
    assert load.faults == []
    assert running.workers() == before


# Recycling ------------------------------------------------------------------------------------------------------------


def test_workers_are_recycled_by_requests_without_losing_one(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "recycle": {"requests": 150, "jitter": "10%"}}})
    running = Supervised(served)
    before = {*running.workers().values()}
    with Load(running.address) as load:
        running.until_workers(without=before)
        load.more(50)
    assert load.faults == []
    assert running.metric('pywatt_worker_restarts_total{reason="recycled"}') >= 2
    assert "it has served" in running.host.wait_for("is recycled")
    assert running.host.stop() == 0


@pytest.mark.slow
def test_workers_are_recycled_by_age_one_after_the_other(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "recycle": {"age": "1s", "jitter": "0%"}}})
    running = Supervised(served)
    before = {*running.workers().values()}
    with Load(running.address) as load:
        until(lambda: len({*running.workers().values()} & before) == 1)
        running.until_workers(without=before)
    assert load.faults == []
    assert "it has run for" in running.host.wait_for("is recycled")


@pytest.mark.slow
def test_a_worker_is_recycled_by_the_memory_that_it_has_alone(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "recycle": {"memory": "100MiB", "jitter": "0%"}}})
    running = Supervised(served)
    grown = int(running.host.get(f"/grow/{120 * 1024**2}").body)
    other = ({*running.workers().values()} - {grown}).pop()
    until(lambda: running.metric("pywatt_worker_memory_bytes") > 120 * 1024**2)
    after = running.until_workers(without=[grown])
    assert other in after.values()
    assert "MiB of memory" in running.host.wait_for("is recycled")


@pytest.mark.slow
def test_a_worker_that_is_recycled_finishes_what_it_does(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "recycle": {"age": "1s", "jitter": "0%"}}})
    running = Supervised(served)
    with ExitStack() as stack:
        connections = connections_to_each(running, stack)
        for connection in connections.values():
            connection.head("GET", "/held/it")
        running.until_workers(without=connections)
        running.release("it")
        for connection in connections.values():
            assert connection.response().body == b"one"
