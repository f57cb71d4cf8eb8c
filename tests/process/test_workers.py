"""A host with workers: how it starts, serves, answers probes and stops."""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from tests.process.supervised import (
    APP,
    Load,
    Supervised,
    alive,
    manifest,
    until,
    until_refused,
)
from tests.process.test_starting import AS_SYSTEMD
from tests.processes import Connection, Project, allowed


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


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
            connection.head("GET", "/held/it")
        until(lambda: running.metric("http_server_active_requests") >= 8)
        running.host.signal()
        until_refused(running)
        running.release("it")
        for connection in connections:
            answer = connection.response()
            assert (answer.body, answer.headers["connection"]) == (b"one", "close")
    assert running.host.wait() == 0


def test_clients_are_refused_while_the_last_requests_run(served: Project) -> None:
    running = Supervised(served)
    with running.host.connect() as connection:
        connection.head("GET", "/held/it")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        running.host.signal()
        until_refused(running)
        running.release("it")
        assert connection.response().body == b"one"
    assert running.host.wait() == 0


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
    until(lambda: not any(alive(pid) for pid in left), allowed(1.0))


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
