"""`validate` on a workspace: the file, the manifests of all its modules, and their applications, in one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.processes import Project

GOOD = "async def app(scope, receive, send): ...\n"
DECORATED = "from pywatt_host import pywatt_module\n\n@pywatt_module()\ndef create_app(app_state): ...\n"


def problems(project: Project, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.cli("validate", "--json", *arguments).stdout)
    return found


def places(found: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(problem["file"], problem["code"]) for problem in found]


def test_without_an_argument_a_folder_with_a_workspace_alone_is_checked_with_all_its_modules(project: Project) -> None:
    project.write("wattson.yaml", "modules: {users: {manifest: users}, billing: {manifest: billing.py}}\n")
    project.write("users/main.py", GOOD)
    project.write("users/pywatt.yaml", "app: main:app\n")
    project.write("billing.py", DECORATED)
    done = project.cli("validate", "--strict")
    assert (done.returncode, done.stdout) == (0, "valid\n")
    # A folder with both is a module; the workspace is checked where it is named.
    project.write("pywatt.yaml", "app: users.main:app\nserve: 1\n")
    assert places(problems(project)) == [("pywatt.yaml", "unknown-key")]
    assert problems(project, "wattson.yaml") == []


def test_faults_of_the_workspace_of_manifests_and_of_applications_are_told_in_one_run(project: Project) -> None:
    project.write(
        "deploy/wattson.yaml",
        """
        modules:
          users: {manifest: ../users, depends_on: [biling], secrets: [OTHER]}
          billing: {manifest: ../billing/pywatt.yaml}
          script: {manifest: ../script.py}
          nowhere: {manifest: nowhere/pywatt.yaml}
        """,
    )
    project.write("users/main.py", "1 / 0\n")
    project.write("users/pywatt.yaml", "app: main:app\nsecrets: [TOKEN]\n")
    project.write("billing/main.py", GOOD)
    project.write("billing/pywatt.yaml", "app: main:app\nserver: {lissten: x}\n")
    project.write("script.py", "import nothing_of_that_name\n")
    found = problems(project, "deploy")
    assert places(found) == [
        ("deploy/wattson.yaml", "unknown-module"),
        ("deploy/wattson.yaml", "no-file"),
        ("users/pywatt.yaml", "app-module-raised"),
        ("users/pywatt.yaml", "conflict"),
        ("billing/pywatt.yaml", "unknown-key"),
        ("script.py", "app-module-raised"),
    ]
    denied = found[3]
    assert (denied["severity"], "TOKEN" in denied["message"], "OTHER" not in denied["message"]) == (
        "warning",
        True,
        True,
    )
    assert project.cli("validate", "deploy").returncode == 2


def test_a_workspace_with_faults_of_its_own_types_hides_no_fault_of_a_manifest(project: Project) -> None:
    project.write("wattson.yaml", "gateway: {listen: nowhere}\nmodules: {users: {manifest: users, replicas: many}}\n")
    project.write("users/main.py", GOOD)
    project.write("users/pywatt.yaml", "app: main:app\nserve: 1\n")
    found = places(problems(project))
    assert [file for file, _ in found] == ["wattson.yaml", "wattson.yaml", "users/pywatt.yaml"]
    assert found[2] == ("users/pywatt.yaml", "unknown-key")


def test_the_environment_and_the_working_folder_are_those_that_up_gives(project: Project) -> None:
    project.write("wattson.yaml", "modules: {users: {manifest: users/create.py, env: {MODE: dev}}}\n")
    project.write("data.txt", "")
    project.write("users/create.py", f"import os\nos.environ['MODE'], open('data.txt')\n{DECORATED}")
    assert problems(project, str(Path("."))) == []
    assert project.cli("validate", str(project.folder / "wattson.yaml")).stdout == "valid\n"


def test_options_for_manifests_are_refused_for_a_workspace(project: Project) -> None:
    project.write("wattson.yaml", "modules: {x: {command: [x]}}\n")
    done = project.cli("validate", "--set", "server.listen=:1")
    assert (done.returncode, "a workspace has neither" in done.stderr) == (2, True)
