"""`diff`: with which manifest it compares, what it prints, and its exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pywatt_host.manifest import load_manifest
from pywatt_host.runtime.manifest_answer import manifest_answer
from tests.cli.control_sockets import control_socket, status
from tests.command_line import called
from tests.processes import Project

LOCAL = {"XDG_RUNTIME_DIR": ""}
OLD = "app: main:app\nmodule: {id: users}\nserver: {reload: signal}\n"
NEW = (
    "app: main:app\nmodule: {id: users}\nserver: {reload: signal, workers: 3}\nconfig: {a: 1}\nchannels: {stdio: off}\n"
)
CHANGES = [
    ("config.a", "rebuilt"),
    ("server.workers.count", "in_place"),
    ("channels.stdio", "refused"),
]


@pytest.fixture
def module(project: Project) -> Project:
    project.write("main.py", "app = None\n")
    project.write("old.yaml", OLD)
    project.write("pywatt.yaml", NEW)
    return project


def running(module: Project, pid: int = 7, **keys: Any) -> dict[str, Any]:
    """What the control socket of a host with old.yaml answers."""
    answer = manifest_answer(load_manifest(module.folder / "old.yaml", environ={}), 1)
    return {"GET /status": (200, status("users", pid, **keys)), "GET /manifest": (200, answer)}


def actions(text: str) -> list[tuple[str, str]]:
    return [(each["path"], each["action"]) for each in json.loads(text)]


def test_a_file_is_compared_without_a_host(module: Project) -> None:
    done = called(["diff", "--against", "old.yaml"], module.folder, LOCAL)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "config.a              rebuilt   new workers load the application with it",
        "server.workers.count  in place  workers are added or drained",
        "channels.stdio        refused   channels to the orchestrator and to peers are held by the"
        " supervisor; restart the host to change them",
    ]
    done = called(["diff", "--against", "old.yaml", "--json"], module.folder, LOCAL)
    assert actions(done.stdout) == CHANGES
    assert all(each["reason"] for each in json.loads(done.stdout))


def test_equal_manifests_say_that_nothing_has_changed(module: Project) -> None:
    done = called(["diff", "--against", "pywatt.yaml"], module.folder, LOCAL)
    assert (done.returncode, done.stdout) == (0, "no key has changed; a reload would only load the code anew\n")
    done = called(["diff", "--against", "pywatt.yaml", "--json"], module.folder, LOCAL)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [[], ["--against", "7"], ["--control", ".pywatt/users-7.sock"]])
def test_the_running_host_of_the_module_is_compared(module: Project, arguments: list[str]) -> None:
    folder = module.folder / ".pywatt"
    other = {**running(module), "GET /status": (200, status("billing", 8))}
    with control_socket(folder / "users-7.sock", running(module)), control_socket(folder / "b.sock", other):
        done = called(["diff", "--json", *arguments], module.folder, LOCAL)
    assert (done.returncode, actions(done.stdout)) == (0, CHANGES)


def test_options_count_on_the_side_of_the_file(module: Project) -> None:
    with control_socket(module.folder / ".pywatt" / "users-7.sock", running(module)):
        done = called(["diff", "--json", "--set", "server.workers=1", "old.yaml"], module.folder, LOCAL)
        assert actions(done.stdout) == []
        done = called(["diff", "--json", "--set", "config.b=1", "old.yaml"], module.folder, LOCAL)
        assert actions(done.stdout) == [("config.b", "rebuilt")]


def test_of_several_hosts_of_a_module_one_has_to_be_chosen(module: Project) -> None:
    folder = module.folder / ".pywatt"
    with control_socket(folder / "a.sock", running(module, 7)), control_socket(folder / "b.sock", running(module, 8)):
        done = called(["diff"], module.folder, LOCAL)
        assert done.returncode == 2
        assert "--against 7, 8" in done.stderr
        assert called(["diff", "--against", "8"], module.folder, LOCAL).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], 'no host of the module "users"'), (["--against", "99"], "no host with the process id 99")],
)
def test_without_a_host_it_is_exit_code_1_and_says_what_else_there_is(
    module: Project, arguments: list[str], said: str
) -> None:
    done = called(["diff", *arguments], module.folder, LOCAL)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "--against FILE" in done.stderr


@pytest.mark.parametrize("answer", [(404, {"title": "Not Found"}), (200, {"something": "else"})])
def test_a_host_that_does_not_tell_its_manifest_is_exit_code_1(module: Project, answer: tuple[int, Any]) -> None:
    with control_socket(module.folder / "c.sock", {**running(module), "GET /manifest": answer}):
        done = called(["diff", "--control", "c.sock"], module.folder, LOCAL)
    assert done.returncode == 1
    assert "users (7) did not tell its manifest" in done.stderr


def test_an_invalid_manifest_is_exit_code_2_on_either_side(module: Project) -> None:
    module.write("bad.yaml", "app: main:app\nserver: {lissten: 1}\n")
    for arguments in (["bad.yaml", "--against", "old.yaml"], ["--against", "bad.yaml"], ["--against", "gone.yaml"]):
        done = called(["diff", *arguments], module.folder, LOCAL)
        assert (done.returncode, done.stdout) == (2, ""), arguments
    assert "gone.yaml: the file does not exist" in done.stderr
