"""What was imported serves the same answers as the server that it was imported from, side by side."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest

from tests.imports.serving import project as write_project
from tests.processes import Connection, Host, Project, Response

REQUESTS: list[tuple[str, str, bytes, dict[str, str]]] = [
    ("GET", "/users", b"", {}),
    ("GET", "/users/1?a=b", b"", {}),
    ("GET", "/a%2Fb//c", b"", {}),
    ("HEAD", "/users", b"", {}),
    ("POST", "/users", b"x" * 5000, {}),
    ("DELETE", "/users/1", b"", {}),
    ("GET", "/missing", b"", {}),
    ("GET", "/users", b"", {"X-Forwarded-Proto": "https"}),
]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def asked(address: str) -> list[tuple[int, bytes, str]]:
    """The status, body and type of each answer."""
    found: list[Response] = []
    for method, path, body, headers in REQUESTS:
        with Connection(address) as connection:
            found.append(connection.request(method, path, body, **headers))
    return [(each.status, each.body, each.headers.get("content-type", "")) for each in found]


def other_server(project: Project, port: int, *words: str) -> Host:
    """Start another server, and wait until it accepts connections."""
    server = project.executed([sys.executable, "-m", *words])
    server.wait_for(str(port))
    return server


GUNICORN = {
    "sync": 'wsgi_app = "wsgi_one:application"\nraw_env = ["MODE=prod"]\n',
    "threads": 'import os\nwsgi_app = "shop.wsgi"\nworker_class = "gthread"\nthreads = int(os.environ.get("T", 4))\n',
    "factory": "wsgi_app = \"wsgi_one:create(mode='x')\"\nworkers = 2\n",
    "below": 'wsgi_app = "wsgi_one"\nraw_env = ["SCRIPT_NAME=/users"]\n',
    "nobody-trusted": 'wsgi_app = "wsgi_one"\nforwarded_allow_ips = "10.0.0.1"\nkeepalive = 1\n',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GUNICORN)
def test_gunicorn_and_what_was_imported_from_its_file(name: str, project: Project) -> None:
    pytest.importorskip("gunicorn", reason="it is for comparison only")
    write_project(project.folder)
    port = free_port()
    project.write("gunicorn.conf.py", GUNICORN[name] + f'bind = "127.0.0.1:{port}"\ncontrol_socket_disable = True\n')
    gunicorn = other_server(project, port, "gunicorn")
    theirs = asked(f"127.0.0.1:{port}")
    gunicorn.stop()
    done = project.cli("import", "gunicorn", "gunicorn.conf.py", "--output", ".")
    assert done.returncode == 0, done.stderr
    host = project.host()
    ours = asked(host.address)
    assert host.stop() == 0
    for request, one, other in zip(REQUESTS, ours, theirs, strict=True):
        if name == "below" and not request[1].startswith("/users"):
            assert (one[0] in (400, 404), other[0] in (404, 500)) == (True, True)  # outside of SCRIPT_NAME
        else:
            assert one == other, request


@pytest.mark.slow
def test_uvicorn_and_what_was_imported_from_its_command_line(project: Project) -> None:
    write_project(project.folder)
    port = free_port()
    words = ["uvicorn", "asgi_one:app", "--port", str(port)]
    uvicorn = other_server(project, port, *words)
    theirs = asked(f"127.0.0.1:{port}")
    uvicorn.stop()
    assert project.cli("import", "uvicorn", "--output", ".", "--", *words).returncode == 0
    host = project.host()
    assert asked(host.address) == theirs
    assert host.stop() == 0


@pytest.mark.slow
def test_a_workspace_out_of_unit_serves_each_path_by_its_application(project: Project) -> None:
    write_project(project.folder)
    folder = str(project.folder)
    config = {
        "listeners": {"127.0.0.1:0": {"pass": "routes"}},
        "routes": [
            {"match": {"uri": "/api/*"}, "action": {"pass": "applications/api"}},
            {"match": {"uri": "/static/*"}, "action": {"share": f"{folder}/www$uri"}},
            {"action": {"pass": "applications/shop"}},
        ],
        "applications": {
            "api": {"type": "python", "path": folder, "module": "wsgi_one"},
            "shop": {"type": "python", "path": folder, "module": "asgi_one", "callable": "app"},
        },
    }
    project.write("unit.json", json.dumps(config))
    done = project.cli("import", "unit", "unit.json", "--output", "out")
    assert done.returncode == 0, done.stderr
    up = project.start([sys.executable, "-m", "pywatt_host", "up", str(Path("out", "wattson.yaml"))])
    address = json.loads(up.wait_for('"event":"ready","workspace"'))["listen"][0]
    assert up.get("/api/x", address, Host="example.com").body == b"GET  /api/x http 0 -"
    assert up.get("/static/site.css", address).body == b"body {}"
    assert up.get("/users", address).body.startswith(b"GET  /users http")
    assert up.get("/missing", address).status == 404
    assert up.stop() == 0
