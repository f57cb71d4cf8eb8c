"""`up` reloads: real processes, replaced one after the other under load."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrator.test_up import RUST, Workspace
from tests.processes import PATIENCE, Connection, Project

APP = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("declined")
    body = b"{version}"
    await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}})
    await send({{"type": "http.response.body", "body": body}})
"""
LOADS = 2  # threads with kept connections, and as many with a new connection for each request


class Reloading(Workspace):
    """A running `up` with the module `users`, whose answers are the version of its code."""

    def __init__(self, project: Project, replicas: int = 1, **keys: Any) -> None:
        project.write("users/pywatt.yaml", "app: main:app\n")
        self.code(project, "first")
        users = {"manifest": "users/pywatt.yaml", "replicas": replicas}
        super().__init__(project, modules={"users": users, **keys.pop("modules", {})}, **keys)
        self.ready()

    def code(self, project: Project, version: str) -> None:
        project.write("users/main.py", APP.format(version=version))

    def reload(self, module: str | None = None) -> dict[str, Any]:
        (control,) = (self.project.folder / "pywatt").glob(f"*-{self.ready()['pid']}.sock")
        with Connection(f"unix:{control}") as connection:
            connection.sock.settimeout(3 * PATIENCE)
            asked = json.dumps({"module": module} if module else {}).encode()
            verdict: dict[str, Any] = connection.request("POST", "/reload", asked).json()
        return verdict

    def pids(self) -> list[int | None]:
        return [replica["pid"] for replicas in self.modules().values() for replica in replicas]

    def wait_for_version(self, version: str) -> None:
        limit = time.monotonic() + PATIENCE
        while self.get("/users/") != (200, version):
            assert time.monotonic() < limit
            time.sleep(0.02)


class Load:
    """Asks the gateway without a pause, from several threads, while the block runs; `answers` counts what it was told,
    and `faults` are the answers and errors that are no success."""

    def __init__(self, address: str, path: str) -> None:
        self._place = address.removeprefix("http://")
        self._path = path
        self._end = threading.Event()
        self.answers: dict[str, int] = {}
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (True, False) * LOADS]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _ask(self, kept: bool) -> None:
        connection = HTTPConnection(self._place, timeout=PATIENCE)
        while not self._end.is_set():
            try:
                connection.request("GET", self._path)
                response = connection.getresponse()
                body = response.read().decode()
            except OSError as error:
                self.faults.append(repr(error))
                connection.close()
                continue
            if response.status != 200:
                self.faults.append(f"{response.status} {body}")
            self.answers[body] = self.answers.get(body, 0) + 1
            if not kept:
                connection.close()
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_reload_under_load_loses_no_request(project: Project, replicas: int) -> None:
    workspace = Reloading(project, replicas)
    before = workspace.modules()["users"]
    with Load(workspace.ready()["listen"][0], "/users/") as load:
        workspace.code(project, "second")
        verdict = workspace.reload()
        assert (verdict["ok"], verdict["exit_code"], verdict["reason"]) == (True, 0, None), verdict
        workspace.code(project, "third")
        assert workspace.reload("users")["modules"]["users"]["ok"]
        workspace.wait_for_version("third")
    assert load.faults == []
    assert {"first", "second", "third"} == set(load.answers)
    after = workspace.modules()["users"]
    assert [replica["replica"] for replica in after] == [replica["replica"] for replica in before]
    assert not {replica["pid"] for replica in after} & {replica["pid"] for replica in before}
    assert {(replica["state"], replica["restarts"]) for replica in after} == {("running", 0)}
    assert workspace.up.stop() == 0


@pytest.mark.slow
def test_a_program_that_ends_at_once_when_it_is_told_to_loses_no_request(project: Project) -> None:
    workspace = Reloading(project, modules={"rusty": {"command": RUST, "channel": "ipc"}})
    with Load(workspace.ready()["listen"][0], "/rusty/things/1") as load:
        for _ in range(3):
            assert workspace.reload("rusty")["ok"]
    assert load.faults == []
    assert len({json.loads(answer)["pid"] for answer in load.answers}) == 4
    assert workspace.up.stop() == 0


def test_code_that_cannot_be_imported_leaves_the_old_process_in_use(project: Project) -> None:
    workspace = Reloading(project)
    pids = workspace.pids()
    project.write("users/main.py", "def broken(:\n")
    verdict = workspace.reload()
    assert (verdict["ok"], verdict["exit_code"], verdict["stage"]) == (False, 3, "start")
    assert verdict["reason"].startswith("users: the new process did not start (exit code 3)\n")
    assert "main.py" in verdict["reason"]
    assert "def broken(:" in verdict["reason"]
    assert verdict["modules"]["users"]["ok"] is False
    assert workspace.get("/users/") == (200, "first")
    assert workspace.pids() == pids
    # It is told in the log, in ps, and in the health of the gateway, until a reload succeeds.
    workspace.up.wait_for("the reload was refused: users: the new process did not start")
    assert "(reload refused)" in project.cli("ps").stdout
    status, health = workspace.get("/health")
    assert (status, json.loads(health)["status"]) == (200, "degraded")
    workspace.code(project, "mended")
    assert workspace.reload()["ok"]
    workspace.wait_for_version("mended")
    assert json.loads(workspace.get("/health")[1])["status"] == "healthy"
    assert "refused" not in project.cli("ps").stdout
    assert workspace.up.stop() == 0


def test_a_manifest_that_is_at_fault_is_refused_before_any_process_starts(project: Project) -> None:
    workspace = Reloading(project, modules={"rusty": {"command": RUST}})
    pids = workspace.pids()
    project.write("users/pywatt.yaml", "app: main:app\nheatlh: true\n")
    verdict = workspace.reload()
    assert (verdict["ok"], verdict["exit_code"], verdict["stage"]) == (False, 2, "manifest")
    assert "pywatt.yaml:2:1" in verdict["reason"]
    assert verdict["modules"]["rusty"]["reason"] == "it was not reloaded, because another module could not be"
    assert workspace.pids() == pids
    assert workspace.up.stop() == 0


@pytest.mark.slow
def test_sighup_reloads_every_module_once_more_where_it_arrives_during_a_reload(project: Project) -> None:
    workspace = Reloading(project)
    workspace.code(project, "second")
    workspace.up.signal(signal.SIGHUP)
    workspace.up.wait_for("reloading all modules")
    for _ in range(3):
        workspace.up.signal(signal.SIGHUP)
    workspace.up.wait_for("reloaded users in")
    assert workspace.reload("users")["ok"]  # waits for those before it
    assert workspace.get("/users/") == (200, "second")
    assert sum("reloading all modules" in line for line in workspace.up.lines) == 2
    assert workspace.up.stop() == 0


FIXED = """
import json, socket, sys
init = json.loads(sys.stdin.readline())
print(json.dumps({"op": "port_request", "request_id": "1", "specific_port": int(sys.argv[1])}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["op"] == "port_response":
        if not message["success"]:
            sys.exit(message["error_message"])
        print(json.dumps({"op": "announce", "listen": "127.0.0.1:1", "endpoints": []}), flush=True)
    elif message["op"] == "heartbeat":
        print(json.dumps({"op": "heartbeat_ack"}), flush=True)
    elif message["op"] == "shutdown":
        break
"""


def test_a_module_with_a_fixed_port_is_told_that_it_cannot_run_twice(project: Project) -> None:
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    fixed = {"command": [sys.executable, "-c", FIXED, str(port)]}
    workspace = Reloading(project, modules={"fixed": fixed})
    verdict = workspace.reload("fixed")
    assert not verdict["ok"]
    assert f"port {port} is in use" in verdict["reason"]
    assert "a module with a fixed address cannot be reloaded" in verdict["reason"]
    assert workspace.modules()["fixed"][0]["state"] == "running"
    assert workspace.up.stop() == 0


def test_a_manifest_with_a_fixed_listener_is_told_the_same(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    workspace = Reloading(project)
    project.write("users/pywatt.yaml", f"app: main:app\nserver: {{admin: {{listen: 127.0.0.1:{port}}}}}\n")
    assert workspace.reload()["ok"]  # the old process has no admin listener
    verdict = workspace.reload()
    assert (verdict["ok"], verdict["exit_code"]) == (False, 3)
    assert f"server.admin.listen: cannot listen on 127.0.0.1:{port}" in verdict["reason"]
    assert "a module with a fixed address cannot be reloaded" in verdict["reason"]
    assert workspace.get("/users/") == (200, "first")
    assert workspace.up.stop() == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors by /proc")
def test_many_reloads_leave_no_descriptor_and_no_process_behind(project: Project) -> None:
    workspace = Reloading(project, modules={"rusty": {"command": RUST, "channel": "ipc"}})
    up = workspace.ready()["pid"]

    def reload() -> None:
        for path in ("/users/", "/rusty/things/1"):  # the gateway keeps the connections
            assert workspace.get(path)[0] == 200
        assert workspace.reload()["ok"]

    def open_now() -> tuple[int, int]:
        children = (Path(f"/proc/{up}/task/{up}/children")).read_text().split()
        return len(os.listdir(f"/proc/{up}/fd")), len(children)

    def settled() -> tuple[int, int]:
        """The fewest: the last connection to the control socket may still be open."""
        found = []
        for _ in range(20):
            time.sleep(0.05)
            found.append(open_now())
        return min(found)

    reload()
    reload()
    before = settled()
    for _ in range(5):
        reload()
    assert settled() == before
    assert workspace.up.stop() == 0


def test_up_that_stops_during_a_reload_leaves_nobody_behind(project: Project) -> None:
    workspace = Reloading(project)
    project.write("users/main.py", "import time, sys; print('imported', file=sys.stderr, flush=True); time.sleep(60)")
    workspace.up.signal(signal.SIGHUP)
    workspace.up.wait_for("imported")
    states = [(each["state"], each["in_use"]) for each in workspace.modules()["users"]]
    assert states == [("running", True), ("starting", False)]
    assert "(reloading users)" in project.cli("ps").stdout
    assert workspace.up.stop() == 0
