"""`up` with modules in Python files: they run like those with a manifest, and every one of them trusts the gateway."""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

import pytest

from pywatt_host.manifest.workspace import from_manifests
from tests.orchestrator.test_up import Workspace
from tests.process.supervised import until
from tests.processes import Connection, Project

MODULE = """
import json
import os

from pywatt_host import AppState, SecretError, pywatt_module

MODE = os.environ["MODE"]  # only the workspace gives it

@pywatt_module({arguments})
def create_app(app_state: AppState):
    @app_state.on_message("double")
    async def double(message):
        return {{"n": 2 * message["n"]}}

    async def app(scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError("declined")
        try:
            granted = len((await app_state.get_secret("HIDDEN")).expose_secret())
        except SecretError:
            granted = 0
        headers = dict(scope["headers"])
        told = [scope["client"][0], scope["scheme"], headers[b"host"].decode(), granted, MODE]
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": json.dumps(told).encode()}})
    return app
"""
WSGI = """
import json

def app(environ, start_response):
    told = [environ["REMOTE_ADDR"], environ["wsgi.url_scheme"], environ["HTTP_HOST"]]
    start_response("200 OK", [])
    return [json.dumps(told).encode()]
"""


def test_modules_in_python_files_and_every_other_kind_trust_the_gateway(project: Project) -> None:
    project.write("users.py", MODULE.format(arguments='secrets=["HIDDEN"]'))
    project.write("nested/billing.py", MODULE.format(arguments="health=False"))
    project.write("old/main.py", WSGI)
    project.write("old/pywatt.yaml", "app: main:app\nserver: {trusted_proxies: [10.0.0.1]}\nhealth: false\n")
    project.write(".env", "HIDDEN=not-for-everybody\n")
    env = {"MODE": "up"}
    workspace = Workspace(
        project,
        timeouts={"start": "60s"},
        modules={
            "users": {"manifest": "users.py", "env": env},
            "billing": {"manifest": "nested/billing.py:create_app", "env": env, "channel": "ipc"},
            "old": {"manifest": "old"},
            "script": {"command": [sys.executable, "nested/billing.py"], "env": env},
        },
    )
    workspace.ready()
    with workspace.connect() as connection:
        host = "shop.localhost:9"
        told = {
            id: connection.request("GET", f"/{id}/x", Host=host, X_Forwarded_Proto="https").json()
            for id in ("users", "billing", "old", "script")
        }
    assert told["users"] == ["127.0.0.1", "http", host, len("not-for-everybody"), "up"]
    # Neither has declared the secret: not in its file, and not in the workspace, which counts for a command.
    assert told["billing"] == told["script"] == ["127.0.0.1", "http", host, 0, "up"]
    assert told["old"] == ["127.0.0.1", "http", host]
    for id in ("billing", "script"):
        workspace.up.wait_for(f"{id} asked for the secret HIDDEN, which it may not read")
    assert workspace.ask("billing", "double", n=4) == {"n": 8}
    assert workspace.up.stop() == 0
    assert not any("not-for-everybody" in line for line in workspace.up.lines)
    assert not any("X-Forwarded-Proto" in line for line in workspace.up.lines)  # no proxy was distrusted


@pytest.mark.parametrize(
    ("files", "code", "texts"),
    [
        ({"a.py": "import no_such_package_here"}, 3, ["no_such_package_here"]),
        ({"a.py": "x = 1"}, 2, ["no function in the file is decorated"]),
        ({"a/pywatt.yaml": "app: main:app", "a/main.py": "1 / 0"}, 3, ["a/pywatt.yaml:1:6", "ZeroDivisionError"]),
        ({"a/pywatt.yaml": "app: main:app", "a/main.py": "import no_such_package_here"}, 3, ["no_such_package_here"]),
        (
            {
                "a/pywatt.yaml": "app: main:app",
                "a/main.py": "1 / 0",
                "b/pywatt.yaml": "app: main:app\nserve: 1",
                "b/main.py": "async def app(scope, receive, send): ...",
            },
            2,
            ["ZeroDivisionError", "b/pywatt.yaml:2:1", "2 errors"],
        ),
    ],
)
def test_all_manifests_and_imports_are_checked_before_anything_starts(
    project: Project, files: dict[str, str], code: int, texts: list[str]
) -> None:
    for name, text in files.items():
        project.write(name, text)
    modules: dict[str, Any] = {name[0]: {"manifest": name} for name in files if not name.endswith("main.py")}
    modules["never"] = {"command": ["./never"]}
    project.write("wattson.yaml", json.dumps({"gateway": {"listen": "127.0.0.1:0"}, "modules": modules}))
    done = project.cli("up")
    assert done.returncode == code, done.stderr
    for text in texts:
        assert text in done.stderr
    assert "never" not in done.stderr
    assert "listens on" not in done.stderr


BLOCKING = "import time\n\ndef create():\n    time.sleep(120)\n"


def test_a_signal_while_something_starts_ends_up_with_0(project: Project) -> None:
    """During the check of the imports, and while the factory of a module runs."""
    project.write("slow/main.py", "import time\nopen('importing', 'w').close()\ntime.sleep(120)\n")
    project.write("slow/pywatt.yaml", "app: main:app\n")
    project.write("stuck/main.py", BLOCKING)
    project.write("stuck/pywatt.yaml", "app: main:create\n")
    stuck = Workspace(project, modules={"stuck": {"manifest": "stuck"}})
    stuck.gateway()
    with Connection(stuck.gateway()) as connection:  # it is open, and says that the module is not
        assert connection.request("GET", "/stuck/x").status in (404, 503)
    stuck.up.signal(signal.SIGTERM)
    assert stuck.up.wait() == 0
    assert any("stopping: SIGTERM" in line for line in stuck.up.lines)
    checking = Workspace(project, modules={"slow": {"manifest": "slow"}})
    until((project.folder / "importing").exists)
    checking.up.signal(signal.SIGTERM)
    assert checking.up.wait() == 0
    assert checking.up.lines == ["stopped by SIGTERM before anything was started"]


def test_a_module_whose_code_cannot_start_ends_up_and_says_why(project: Project) -> None:
    project.write("users/main.py", "def create():\n    raise RuntimeError('no database')\n")
    project.write("users/pywatt.yaml", "app: main:create\n")
    project.write("good/main.py", WSGI)
    project.write("good/pywatt.yaml", "app: main:app\nhealth: false\n")
    workspace = Workspace(project, modules={"users": {"manifest": "users"}, "good": {"manifest": "good"}})
    assert workspace.up.wait() == 3
    text = "\n".join(workspace.up.lines)
    assert "RuntimeError: no database" in text
    assert "users could not start (exit code 3); all modules are stopped" in text
    assert '"event":"ready","workspace"' not in text


def test_several_python_files_and_folders_get_ids_of_their_own(project: Project) -> None:
    for name in ("users.py", "shop/app.py", "prices/main.py", "more/users.py"):
        project.write(name, "")
    paths = [project.folder / "users.py", project.folder / "shop/app.py", project.folder / "prices/main.py"]
    workspace = from_manifests([*paths, project.folder / "more/users.py"], environ={}).workspace
    assert list(workspace.modules) == ["users", "shop", "prices", "users-2"]
    assert workspace.modules["users"].manifest == str(project.folder / "users.py")
