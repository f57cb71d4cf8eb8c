"""What `init` writes, taken as it is: valid, served, stopped, and its own test passes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pywatt_host.scaffold import FRAMEWORKS
from tests.processes import PATIENCE, Project, environment


def assert_its_test_passes(project: Project, folder: str) -> None:
    """Run the generated test where it was written."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "pywatt_host.testing", "-q"],
        cwd=project.folder / folder,
        env=environment(project.folder, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_new_module_is_valid_runs_and_passes_its_test(project: Project, framework: str) -> None:
    pytest.importorskip(framework)
    made = project.cli("init", "users", "--framework", framework)
    assert (made.returncode, made.stderr) == (0, "")
    done = project.cli("validate", "--strict", "users")
    assert (done.returncode, done.stdout, done.stderr) == (0, "valid\n", "")
    listen = ("--listen", "127.0.0.1:0", "--set", "server.admin.listen=127.0.0.1:0")
    host = project.host("users", *listen, env={"GREETING": "Good day"})
    assert host.get("/").json() == {"module": "users", "try": "/hello/you"}
    assert host.get("/hello/Ada").json() == {"text": "Good day, Ada!"}
    assert host.get("/elsewhere").status == 404
    admin = str(host.ready["admin"][0])
    assert host.get("/health", admin).json()["module"] == {"id": "users", "version": "0.1.0"}
    metrics = host.get("/metrics", admin).body.decode()
    assert "greetings_total 1.0" in metrics
    assert 'http_route="/hello/{name}"' in metrics
    assert host.stop() == 0, "\n".join(host.lines)
    assert {record["level"] for record in host.logs} <= {"info", "warning"}  # Django warns of the 404
    assert_its_test_passes(project, "users")


def test_a_manifest_around_an_application_runs_and_passes_its_test(project: Project) -> None:
    project.write(
        "main.py",
        """
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route

        async def notes(request):
            return JSONResponse(["buy milk"])

        async def hidden(request):
            return JSONResponse(request.path_params["id"])

        def create_app():
            return Starlette(routes=[Route("/notes", notes), Route("/notes/{id}", hidden)])
        """,
    )
    made = project.cli("init", "deploy", "--from", "main:create_app", "--build")
    assert (made.returncode, made.stderr) == (0, "")
    assert project.cli("validate", "--strict", "deploy").stdout == "valid\n"
    host = project.host("deploy", "--listen", "127.0.0.1:0")
    assert host.get("/notes").json() == ["buy milk"]
    assert host.get("/notes/7").json() == "7"
    assert host.get("/elsewhere").headers["content-type"] == "application/problem+json"
    assert host.stop() == 0, "\n".join(host.lines)
    assert_its_test_passes(project, "deploy")
