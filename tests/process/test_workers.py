"""A host with workers: how it serves, and what happens when a worker, or the supervisor, ends or stands still."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import textwrap
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from tests.process.supervised import APP, Load, Supervised, alive, until
from tests.process.test_starting import AS_SYSTEMD
from tests.processes import Connection, Project, allowed

REPLACED = 2.0  # seconds within which a worker that has ended is replaced
ORPHANS = 10.0  # seconds after which nothing is left of a host whose supervisor was killed


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


def manifest(project: Project, server: dict[str, Any] | None = None, **keys: Any) -> None:
    """Two workers that log no requests."""
    keys = {"logging": {"access": False}, "metrics": True, **keys}
    project.manifest(server={"workers": 2, **(server or {})}, **keys)


def spread(address: str, count: int) -> Counter[bytes]:
    """How many of `count` kept connections each worker has."""
    with ExitStack() as stack:
        return Counter(stack.enter_context(Connection(address)).request("GET", "/pid").body for _ in range(count))


# Serving --------------------------------------------------------------------------------------------------------------


def test_two_workers_answer_and_the_host_leaves_clean(served: Project) -> None:
    running = Supervised(served)
    host = running.host
    assert host.ready["workers"] == 2
    assert host.ready["pid"] == host.child.pid
    found = spread(running.address, 32)
    assert {int(pid) for pid in found} == {*running.workers().values()}
    assert max(found.values()) <= 20  # 1.25 times the mean
    assert running.health()["status"] == "healthy"
    assert host.stop() == 0
    assert host.stdout == b""
    assert running.processes() == set()
    messages = [line["message"] for line in host.logs if line["level"] not in ("DEBUG", "INFO", "debug", "info")]
    assert [message for message in messages if "metrics" not in message] == []


def test_connections_of_a_unix_socket_are_spread_evenly(served: Project) -> None:
    manifest(served, {"listen": "unix:app.sock"})
    running = Supervised(served)
    assert sorted(spread(running.address, 32).values()) == [16, 16]
    assert running.host.stop() == 0
    assert not (served.folder / "app.sock").exists()


def test_what_runs_is_finished_when_the_host_stops(served: Project) -> None:
    running = Supervised(served)
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(running.address)) for _ in range(8)]
        for connection in connections:
            connection.head("GET", "/sleep/0.5")
        until(lambda: running.metric("http_server_active_requests") >= 8)
        running.host.signal()
        for connection in connections:
            answer = connection.response()
            assert (answer.body, answer.headers["connection"]) == (b"one", "close")
    assert running.host.wait() == 0


def test_clients_are_refused_while_the_last_requests_run(served: Project) -> None:
    running = Supervised(served)
    with running.host.connect() as connection:
        connection.head("GET", "/sleep/1.5")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        running.host.signal()
        with pytest.raises(ConnectionRefusedError):
            until(lambda: try_to_connect(running.address))
        assert connection.response().body == b"one"
    assert running.host.wait() == 0


def try_to_connect(address: str) -> None:
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.1).close()
    except TimeoutError:
        pass  # the last handshakes are being waited for


@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix:app.sock"])
def test_every_accepted_request_is_served_when_the_host_stops_under_load(served: Project, address: str) -> None:
    manifest(served, {"listen": address})
    running = Supervised(served)
    with Load(running.address) as load:
        load.more(100)
        running.host.signal()
        assert running.host.wait() == 0
    refused = ("ConnectionRefusedError", "FileNotFoundError")
    assert [fault for fault in load.faults if not fault[1].startswith(refused)] == []


def test_sockets_of_systemd_are_shared_reloaded_and_left_to_their_owner(served: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        manifest(served, {"listen": "systemd"})
        command = [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()), "-m", "pywatt_host", "run"]
        host = served.start([*command, "--log-format", "json"], pass_fds=[listener.fileno()])
        with Load(host.address) as load:
            assert host.ready["workers"] == 2
            load.more(50)
            assert served.cli("reload").returncode == 0
            load.more(50)
            host.signal()
            assert host.wait() == 0
            assert load.faults == []
            assert len(load.answers) == 4  # processes
            load.stop()
            listener.accept()[0].close()  # what has arrived since is for the owner's next process
            listener.close()


def test_what_an_import_prints_is_printed_once(project: Project) -> None:
    project.write("main.py", "print('imported')\n" + textwrap.dedent(APP))
    manifest(project)
    host = project.host(env={"PYTHONUNBUFFERED": ""})
    assert host.get("/version").status == 200
    assert host.stop() == 0
    assert host.stdout == b"imported\n"


def test_a_second_signal_forces(served: Project) -> None:
    running = Supervised(served)
    with running.host.connect() as connection:
        connection.head("GET", "/sleep/30")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        left = running.processes()
        running.host.signal()
        running.host.wait_for("stopping: SIGTERM")
        begun = time.monotonic()
        running.host.signal()
        assert running.host.wait() == 1
        assert time.monotonic() - begun < allowed(0.5)
    until(lambda: not any(alive(pid) for pid in left), ORPHANS)


def test_a_signal_during_the_start_ends_it(served: Project) -> None:
    served.write("main.py", "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    host = served.host()
    until(lambda: b"importing" in host.stdout)
    begun = time.monotonic()
    host.signal()
    assert host.wait() == 0
    assert time.monotonic() - begun < allowed(1.0)


def test_work_that_does_not_end_in_time_is_cut_and_counted(served: Project) -> None:
    manifest(served, {"timeouts": {"shutdown": "500ms"}})
    running = Supervised(served)
    with running.host.connect() as connection:
        connection.head("GET", "/sleep/30")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        begun = time.monotonic()
        assert running.host.stop() == 1
        assert time.monotonic() - begun < allowed(1.5)


# Probes and metrics ---------------------------------------------------------------------------------------------------


def test_metrics_are_sums_over_workers_and_never_go_back(served: Project) -> None:
    running = Supervised(served)
    count = "http_server_request_duration_seconds_count"

    def served_so_far() -> float:
        return running.metric(count)

    spread(running.address, 16)
    assert until(lambda: found if (found := served_so_far()) >= 16 else None) == 16
    assert running.metric('pywatt_workers{state="accepting"}') == 2
    victim = running.workers()[1]
    os.kill(victim, signal.SIGKILL)
    running.until_workers(without=[victim])
    assert served_so_far() >= 16
    assert running.metric("pywatt_worker_restarts_total") == 1
    spread(running.address, 16)
    assert until(lambda: found if (found := served_so_far()) >= 32 else None) == 32
    assert running.reload()["ok"]
    assert served_so_far() >= 32
    assert running.metric("pywatt_generation") == 2
    assert running.metric("pywatt_worker_restarts_total") == 1


def test_the_admin_listener_is_the_only_one_with_probes(served: Project) -> None:
    manifest(served, {"admin": {"listen": "127.0.0.1:0"}})
    running = Supervised(served)
    (admin,) = running.host.ready["admin"]
    for path in ("/health", "/livez", "/readyz", "/metrics"):
        assert running.host.get(path, admin).status == 200
        assert running.host.get(path).body in (b"one", b"")  # the application's
    assert running.host.stop() == 0


def test_metrics_on_the_admin_listener_are_guarded(served: Project) -> None:
    manifest(
        served,
        {"admin": {"listen": "127.0.0.1:0"}},
        metrics={"auth": ["key"]},
        auth={"key": {"type": "api_key", "keys": "${secret:SCRAPE_KEY}"}},
    )
    running = Supervised(served, SCRAPE_KEY="a-long-key-of-a-scraper")
    (admin,) = running.host.ready["admin"]
    for _ in range(2):
        assert running.host.get("/metrics", admin).status == 401
        assert running.host.get("/metrics", admin, X_API_Key="a-long-key-of-a-scraper").status == 200
        assert running.host.get("/livez", admin).status == 200
        assert running.reload()["ok"]


# Workers that end or stand still --------------------------------------------------------------------------------------


def only_of(load: Load, victims: set[int], fresh: int = 2) -> None:
    """Only requests of these processes were lost: at most one of each client that opens new connections, which knows no
    process before the first answer."""
    others = [fault for fault in load.faults if fault[0] not in victims]
    assert len([fault for fault in others if fault[0] == 0]) <= fresh, load.faults
    assert all(fault[0] == 0 for fault in others), load.faults


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


def connections_to_each(running: Supervised, stack: ExitStack) -> dict[int, Connection]:
    """A kept connection to each worker, by process."""
    found: dict[int, Connection] = {}
    while found.keys() != {*running.workers().values()}:
        connection = stack.enter_context(Connection(running.address))
        found[int(connection.request("GET", "/pid").body)] = connection
    return found


def block(running: Supervised, connections: dict[int, Connection]) -> None:
    """Block the event loops of these workers."""
    for pid, connection in connections.items():
        connection.head("GET", "/block/60")
        running.host.wait_for(f"blocked {pid}")


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
        connection.head("GET", "/sleep/0.5")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        left = running.processes()
        running.host.signal()
        assert connection.response().body == b"one"
    assert running.host.wait() == 0
    until(lambda: not any(alive(pid) for pid in left))


def test_a_zygote_that_stands_still_is_replaced(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "start_limit": "1s"}})
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


def test_a_worker_that_is_recycled_finishes_what_it_does(served: Project) -> None:
    manifest(served, {"workers": {"count": 2, "recycle": {"age": "1s", "jitter": "0%"}}})
    running = Supervised(served)
    with ExitStack() as stack:
        connections = connections_to_each(running, stack)
        for connection in connections.values():
            connection.head("GET", "/sleep/3")
        running.until_workers(without=connections)
        for connection in connections.values():
            assert connection.response().body == b"one"


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
