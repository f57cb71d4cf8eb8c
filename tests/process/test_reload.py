"""Reloads of a running host: what is new is in use and no request is lost, or the old serves on and says why."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.process.supervised import APP, Load, Supervised, alive, manifest, until, version
from tests.processes import PATIENCE, Connection, Project

LINGER = 0.9  # seconds in which a worker that drains still answers on a connection without a request: a little less


@pytest.fixture
def served(project: Project) -> Project:
    project.write("main.py", APP)
    manifest(project)
    return project


def answer_of(running: Supervised, path: str = "/version") -> str:
    return running.host.get(path, running.address).body.decode()


# Good ones ------------------------------------------------------------------------------------------------------------


def test_new_code_is_in_use_after_a_reload(served: Project) -> None:
    running = Supervised(served)
    before = {*running.workers().values()}
    version(served, "two")
    verdict = running.reload()
    assert (verdict["ok"], verdict["generation"], verdict["exit_code"]) == (True, 2, 0)
    assert [answer_of(running) for _ in range(4)] == ["two"] * 4
    assert running.health()["checks"]["reload"]["status"] == "passing"
    until(lambda: not any(alive(pid) for pid in before))
    assert running.host.stop() == 0
    assert running.host.stdout == b""


def test_sighup_reloads(served: Project) -> None:
    running = Supervised(served)
    version(served, "two")
    running.host.signal(signal.SIGHUP)
    running.host.wait_for("generation 2 is in use")
    assert answer_of(running) == "two"


def test_quick_reloads_lose_no_request(served: Project) -> None:
    running = Supervised(served)
    with Load(running.address) as load:
        for number in range(3):
            version(served, f"v{number}")
            assert running.reload()["ok"]
            load.more(20)
    assert load.faults == []
    assert answer_of(running) == "v2"
    assert running.host.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("address", "count"), [("127.0.0.1:0", 40), ("unix:app.sock", 20)])
def test_many_reloads_lose_no_request_and_leak_nothing(served: Project, address: str, count: int) -> None:
    manifest(served, {"listen": address})
    running = Supervised(served)
    pid = running.host.child.pid

    def held() -> tuple[int, int, int]:
        """Descriptors, processes, and KiB of memory."""
        until(lambda: len(running.status()["workers"]) == 2)
        running.until_only(2)
        memory = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line)
        return len(os.listdir(f"/proc/{pid}/fd")), len(running.processes()), int(memory.split()[1])

    with Load(running.address) as load:
        before = (0, 0, 0)
        for number in range(count):
            if number == count // 2:
                before = held()
            bad = number % 5 == 4
            if bad:
                served.write("main.py", "raise RuntimeError('broken')")
            else:
                version(served, f"v{number}")
            verdict = running.reload()
            assert verdict["ok"] is not bad, verdict
        after = held()
    assert load.faults == []
    assert abs(after[0] - before[0]) <= 10  # the connections of the clients differ
    assert after[1] == before[1]
    assert after[2] - before[2] < 8 * 1024
    assert running.host.stop() == 0


def test_endpoints_and_limits_of_the_new_manifest_count(served: Project) -> None:
    running = Supervised(served)
    manifest(served, {"limits": {"body": "10B"}}, endpoints=[{"path": "/version", "methods": ["GET", "POST"]}])
    verdict = running.reload()
    assert [change["path"] for change in verdict["changes"]] == ["server.limits.body", "endpoints"]
    assert answer_of(running) == "one"
    assert running.host.get("/pid").status == 404
    assert running.host.post("/version", b"x" * 11).status == 413


def test_listeners_come_and_go(served: Project) -> None:
    running = Supervised(served)
    with Load(running.address) as load:
        manifest(served, {"listen": ["127.0.0.1:0", "unix:more.sock"]})
        assert running.reload()["ok"]
        first, second = running.status()["listen"]
        assert first == running.address  # port 0 keeps its port
        assert {running.host.get("/pid", second).status for _ in range(4)} == {200}
        with Connection(second) as kept:
            assert kept.request("GET", "/version").body == b"one"
            manifest(served)
            began = time.monotonic()
            assert running.reload()["ok"]
            assert running.status()["listen"] == [running.address]
            if time.monotonic() - began < LINGER:
                assert kept.request("GET", "/version").body == b"one"
            assert kept.closed()
        until(lambda: not (served.folder / "more.sock").exists())
        load.more(50)
    assert load.faults == []


def test_a_listener_that_moves_to_another_port_loses_no_connection(served: Project) -> None:
    running = Supervised(served)
    with Connection(running.address) as kept, Connection(running.address) as waiting:
        assert kept.request("GET", "/version").status == 200
        waiting.head("GET", "/held/it")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        manifest(served, {"listen": "unix:new.sock"})
        began = time.monotonic()
        assert running.reload()["ok"]
        (address,) = running.status()["listen"]
        assert address.endswith("/new.sock")
        assert running.host.get("/version", address).body == b"one"
        if time.monotonic() - began < LINGER:
            assert kept.request("GET", "/version").headers["connection"] == "close"
        running.release("it")
        assert waiting.response().body == b"one"
    with pytest.raises(ConnectionRefusedError):
        until(lambda: running.host.get("/version", running.address).status != 200)


@pytest.mark.parametrize("counts", [(3, 1), pytest.param((1, 2), marks=pytest.mark.slow)])
def test_workers_are_added_and_drained(served: Project, counts: tuple[int, ...]) -> None:
    running = Supervised(served)
    with Load(running.address) as load:
        for count in counts:
            manifest(served, {"workers": count, "reload": "signal"})
            assert running.reload()["ok"]
            running.until_workers(count)
            load.answers.clear()
            load.more(100)
            running.until_only(count)
    assert load.faults == []
    assert running.health()["status"] == "healthy"
    assert running.metric("pywatt_workers") == counts[-1]
    assert running.host.stop() == 0


def test_the_admin_listener_is_added_moved_and_removed(served: Project) -> None:
    running = Supervised(served)
    for name in ("a.sock", "b.sock"):
        manifest(served, {"admin": {"listen": f"unix:{name}"}})
        assert running.reload()["ok"]
        admin = f"unix:{served.folder / name}"
        assert running.host.get("/metrics", admin).status == 200
        assert running.host.get("/livez", admin).status == 200
        assert running.host.get("/metrics", running.address).body == b"one"  # the application's
    manifest(served)
    assert running.reload()["ok"]
    assert running.metric("pywatt_generation") == 4
    assert not list(served.folder.glob("?.sock"))


def test_the_log_level_and_metrics_change(served: Project) -> None:
    manifest(served, metrics=False)
    running = Supervised(served)
    assert running.host.get("/metrics").body == b"one"
    manifest(served, logging={"level": "debug", "access": True}, metrics=True)
    assert running.reload()["ok"]
    assert running.metric("pywatt_generation") == 2
    running.host.get("/version")
    running.host.wait_for("GET /version 200")
    manifest(served, logging={"level": "error"})
    assert running.reload()["ok"]
    running.until_only(2)
    count = len(running.host.lines)
    assert running.reload()["ok"]
    running.host.get("/version")
    until(lambda: len(running.host.lines) > count)
    (line,) = running.host.lines[count:]
    assert json.loads(line)["logger"] == "pywatt.access"  # which does not ask for a level


def test_probes_of_the_new_manifest_are_in_use(served: Project) -> None:
    running = Supervised(served)
    manifest(served, health={"liveness": "/alive"}, metrics={"path": "/numbers"})
    assert running.reload()["ok"]
    assert running.host.get("/alive").json() == {"status": "alive"}
    assert running.metric("pywatt_generation", path="/numbers") == 2
    assert running.host.get("/livez").body == b"one"


# What asks for a reload -----------------------------------------------------------------------------------------------


def test_a_changed_manifest_is_watched(served: Project) -> None:
    manifest(served, {"reload": "watch"})
    running = Supervised(served)
    version(served, "two")  # code is not watched
    manifest(served, {"reload": "watch", "limits": {"body": "10B"}})
    running.host.wait_for("generation 2 is in use")
    assert answer_of(running) == "two"
    served.write("pywatt.yaml", "app: [main:app")
    running.host.wait_for("reload: refused (manifest)")
    assert answer_of(running) == "two"


def test_a_changed_env_file_is_watched(served: Project) -> None:
    served.write("settings.env", "GREETING=hello\n")
    manifest(served, {"reload": "watch"}, app={"import_path": "main:app", "env": {"GREETING": "${GREETING}"}})
    running = Supervised(served, "--env-file", "settings.env")
    assert answer_of(running, "/env/GREETING") == "hello"
    served.write("settings.env", "GREETING=good day\n")
    running.host.wait_for("generation 2 is in use")
    assert answer_of(running, "/env/GREETING") == "good day"


def test_a_mounted_secret_that_is_swapped_is_watched(served: Project) -> None:
    """As the kubelet swaps a mounted Secret: `..data` is a link to a folder, and each file a link through it."""
    mounted = served.folder / "mounted"

    def swap(name: str, value: str) -> None:
        served.write(f"mounted/{name}/GREETING", value)
        (mounted / "..new").symlink_to(name)
        (mounted / "..new").replace(mounted / "..data")

    swap("..one", "hello from a secret")
    (mounted / "GREETING").symlink_to("..data/GREETING")
    manifest(
        served,
        {"reload": "watch"},
        app={"import_path": "main:app", "env": {"GREETING": "${secret:GREETING}"}},
        secrets={"sources": [{"directory": "mounted"}], "keys": ["GREETING"], "rotate": False},
    )
    running = Supervised(served)
    assert answer_of(running, "/env/GREETING") == "hello from a secret"
    swap("..two", "good day from a secret")
    running.host.wait_for("generation 2 is in use")
    assert answer_of(running, "/env/GREETING") == "good day from a secret"


def test_a_host_that_does_not_reload_names_the_key(served: Project) -> None:
    manifest(served, {"reload": "off"})
    running = Supervised(served)
    running.host.signal(signal.SIGHUP)
    assert "server.reload" in running.host.wait_for("SIGHUP: this host does not reload")
    done = served.cli("reload")
    assert done.returncode == 1
    assert "server.reload" in done.stderr
    assert running.host.get("/version").status == 200


def test_the_verbs_reload_and_diff(served: Project) -> None:
    running = Supervised(served)
    manifest(served, {"limits": {"body": "10B"}}, module={"id": "other"})
    pid = str(running.host.child.pid)
    found = json.loads(served.cli("diff", "--json", "--against", pid, "--set", "logging.format=json").stdout)
    assert [(change["path"], change["action"]) for change in found] == [
        ("module.id", "refused"),
        ("server.limits.body", "rebuilt"),
    ]
    manifest(served, {"limits": {"body": "10B"}})
    done = served.cli("reload", "--json")
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    assert "generation 3 is in use" in served.cli("reload").stdout
    assert "no key has changed" in served.cli("diff", "--against", pid, "--set", "logging.format=json").stdout
    assert running.host.stop() == 0
    assert served.cli("reload").returncode == 1


def test_systemd_is_told_of_each_reload(served: Project) -> None:
    path = os.fspath(served.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(path)
        notify.settimeout(PATIENCE)

        def told() -> list[str]:
            return notify.recv(4096).decode().split("\n")

        running = Supervised(served, NOTIFY_SOCKET=path)
        ready = ["READY=1", f"MAINPID={running.host.child.pid}"]
        assert told() == ready
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        running.host.signal(signal.SIGHUP)
        first, second = told()
        assert first == "RELOADING=1"
        assert before <= int(second.removeprefix("MONOTONIC_USEC="))
        assert told()[:2] == ready
        served.write("pywatt.yaml", "app: [main:app")
        running.host.signal(signal.SIGHUP)
        assert told()[0] == "RELOADING=1"
        *again, shown = told()
        assert again == ready
        assert shown.startswith("STATUS=the last reload was refused: pywatt.yaml:1")
        running.host.signal()
        assert told() == ["STOPPING=1"]
        assert running.host.wait() == 0


# What the clients of the old workers see ------------------------------------------------------------------------------


def test_event_streams_and_websockets_are_told_and_slow_requests_finished(served: Project) -> None:
    running = Supervised(served)
    with ExitStack() as stack:
        stream, slow, idle, socket_ = (stack.enter_context(Connection(running.address)) for _ in range(4))
        stream.head("GET", "/events")
        assert stream.response_head()[0] == 200
        assert stream.chunk() == b"data: 1\n\n"
        assert idle.request("GET", "/version").body == b"one"
        socket_.head(
            "GET",
            "/",
            Upgrade="websocket",
            Connection="Upgrade",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            Sec_WebSocket_Version="13",
        )
        assert socket_.response_head()[0] == 101
        assert socket_.exactly(5) == b"\x81\x03one"
        slow.head("GET", "/held/it")
        until(lambda: running.metric("http_server_active_requests") >= 1)
        version(served, "two")
        began = time.monotonic()
        assert running.reload()["ok"]
        try:
            while (answer := idle.request("GET", "/version")).headers.get("connection") != "close":
                pass  # the old worker has not been told yet
            assert answer.body == b"one"
        except EOFError:
            assert time.monotonic() - began >= LINGER
        assert stream.chunk() == b"data: over\n\n"
        assert stream.chunk() == b""
        kind, length = socket_.exactly(2)
        assert kind == 0x88
        assert int.from_bytes(socket_.exactly(length)[:2]) == 1012
        running.release("it")
        answer = slow.response()
        assert (answer.body, answer.headers["connection"]) == (b"one", "close")
        assert answer_of(running) == "two"
    running.until_only(2)


def test_an_idle_connection_does_not_keep_an_old_worker(served: Project) -> None:
    manifest(served, {"timeouts": {"keep_alive": "1s"}})
    running = Supervised(served)
    with Connection(running.address) as idle:
        assert idle.request("GET", "/version").status == 200
        assert running.reload()["ok"]
        assert idle.closed()
    running.until_only(2)
