"""`pywatt_host.asgi:app` in other people's servers, and a running host's own control socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from importlib.util import find_spec

import pytest

from tests.processes import PATIENCE, Connection, Project


def command(server: str, port: int, fd: int) -> list[str]:
    app = "pywatt_host.asgi:app"
    python = [sys.executable, "-m"]
    match server:
        case "uvicorn":
            return [*python, "uvicorn", app, "--fd", str(fd)]
        case "hypercorn":
            return [*python, "hypercorn", app, "--bind", f"fd://{fd}"]
        case _:
            return [*python, "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), app]


def connected(port: int) -> Connection:
    """A connection, once somebody listens."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return Connection(f"http://127.0.0.1:{port}")
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, "nobody listens"
            time.sleep(0.02)


@pytest.mark.parametrize("server", ["uvicorn", "hypercorn", "granian"])
def test_another_server_runs_the_same_application(served: Project, server: str) -> None:
    if find_spec(server) is None:
        pytest.skip(f"{server} is not installed")
    served.manifest(endpoints=[{"path": "/x"}], server={"timeouts": {"keep_alive": "9s"}}, logging={"level": "info"})
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, fd = listener.getsockname()[1], listener.fileno()
        if server == "granian":
            listener.close()
        process = served.start(command(server, port, fd), pass_fds=[] if server == "granian" else [fd])
        with connected(port) as connection:
            answer = connection.request("GET", "/x")
            assert (answer.status, answer.body) == (200, b"GET /x")
            assert answer.headers["x-request-id"]
            assert connection.request("GET", "/undeclared").status == 404
            assert connection.request("GET", "/readyz").json() == {"status": "ready"}
        warning = json.loads(process.wait_for("have no effect, since another server serves"))
        assert warning["message"].endswith("another server serves: server.listen, server.timeouts.keep_alive")
        process.signal(signal.SIGINT if server == "granian" else signal.SIGTERM)
        assert process.wait() in (0, -signal.SIGTERM)


def test_a_manifest_that_cannot_be_loaded_fails_the_other_servers_start(served: Project) -> None:
    served.write("pywatt.yaml", "app: main:app\nserver: {listn: x}\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        process = served.start(command("uvicorn", 0, fd), pass_fds=[fd])
        assert process.wait() == 3
        assert 'did you mean "listen"?' in "\n".join(process.lines)


def test_the_manifest_is_named_by_the_environment(served: Project) -> None:
    served.write("deploy/pywatt.yaml", "app: {import_path: main:app, working_dir: ..}\nendpoints: [{path: /only}]\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        env = {"PYWATT_MANIFEST": os.fspath(served.folder / "deploy")}
        process = served.start(command("uvicorn", 0, fd), pass_fds=[fd], env=env)
        with connected(port) as connection:
            assert connection.request("GET", "/only").status == 200
            assert connection.request("GET", "/other").status == 404
        assert process.stop() in (0, -signal.SIGTERM)


# ps and stop ----------------------------------------------------------------------------------------------------------


def test_ps_lists_running_hosts_and_stop_drains_one(served: Project) -> None:
    served.manifest(module={"id": "users", "version": "1.4.0"})
    host = served.host()
    address = host.address
    (status,) = json.loads(served.cli("ps", "--json").stdout)
    assert status["module"] == {"id": "users", "version": "1.4.0"}
    assert status["listen"] == [address]
    assert (status["pid"], status["status"], status["running_requests"]) == (host.child.pid, "healthy", 0)
    table = served.cli("ps").stdout.splitlines()
    assert table[0].split() == ["MODULE", "VERSION", "PID", "STATUS", "UP", "MEMORY", "LISTEN"]
    assert table[1].split()[:4] == ["users", "1.4.0", str(host.child.pid), "healthy"]
    wrong = served.cli("stop", "billing")
    assert (wrong.returncode, 'no host or module named "billing"' in wrong.stderr) == (2, True)
    stopped = served.cli("stop", "users")
    assert (stopped.returncode, stopped.stdout) == (0, "")
    assert host.wait() == 0
    assert "stopping: asked over the control socket" in [record["message"] for record in host.logs]
    assert json.loads(served.cli("ps", "--json").stdout) == []


def test_stop_asks_which_one_where_there_are_several_and_a_killed_host_leaves_no_trace(served: Project) -> None:
    hosts = [served.host(), served.host()]
    assert all(host.ready for host in hosts)
    unclear = served.cli("stop")
    assert unclear.returncode == 2
    assert all(str(host.child.pid) in unclear.stderr for host in hosts)
    hosts[0].signal(signal.SIGKILL)
    hosts[0].wait()
    assert served.cli("stop", str(hosts[1].child.pid)).returncode == 0
    assert hosts[1].wait() == 0
    assert served.cli("ps", "--json").stdout.strip() == "[]"
    assert os.listdir(served.folder / "pywatt") == []
