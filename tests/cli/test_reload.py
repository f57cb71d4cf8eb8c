"""`reload`: whom it asks, what it prints of the verdict, and its exit code."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from pywatt_host.runtime.control import NO_RELOAD
from tests.cli.control_sockets import Answer, control_socket, status
from tests.command_line import called
from tests.processes import Project

LOCAL = {"XDG_RUNTIME_DIR": ""}
GOOD = {"ok": True, "generation": 5, "stage": None, "exit_code": 0, "reason": None, "seconds": 0.84}


def refused(stage: str, code: int, reason: str = "the reason\nin two lines") -> dict[str, Any]:
    return {"ok": False, "generation": 4, "stage": stage, "exit_code": code, "reason": reason, "seconds": 0.1}


def test_a_generation_in_use_is_exit_code_0(project: Project) -> None:
    path = project.folder / ".pywatt" / "users-7.sock"
    with control_socket(path, {"GET /status": (200, status("users", 7)), "POST /reload": (200, GOOD)}) as asked:
        for argument in ([], ["users"], ["7"]):
            done = called(["reload", *argument], project.folder, LOCAL)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == "users (7): generation 5 is in use after 0.8 s\n"
        done = called(["reload", "--json"], project.folder, LOCAL)
        assert (done.returncode, json.loads(done.stdout)) == (0, GOOD)
    assert asked == [("POST /reload", {})] * 4


@pytest.mark.parametrize(
    ("stage", "code", "said"),
    [
        ("manifest", 2, "the manifest is not valid"),
        ("plan", 2, "the manifest changes keys that only a restart changes"),
        ("secrets", 3, "a secret could not be fetched"),
        ("import", 3, "the application could not be imported"),
        ("start", 3, "the new workers did not become ready"),
        ("", 1, ""),
    ],
)
def test_a_refused_reload_says_why_and_that_the_old_generation_serves(
    project: Project, stage: str, code: int, said: str
) -> None:
    path = project.folder / "c.sock"
    verdict = refused(stage, code)
    with control_socket(path, {"GET /status": (200, status("users", 7)), "POST /reload": (200, verdict)}):
        done = called(["reload", "--control", "c.sock"], project.folder, LOCAL)
        assert (done.returncode, done.stdout) == (code, "")
        first = f"users (7): not reloaded{said and ', because '}{said}; generation 4 serves on"
        assert done.stderr.splitlines() == [first, "the reason", "in two lines"]
        done = called(["reload", "--control", "c.sock", "--json"], project.folder, LOCAL)
        assert (done.returncode, json.loads(done.stdout)) == (code, verdict)


def test_a_host_that_does_not_reload_is_exit_code_1_and_names_the_key(project: Project) -> None:
    answers = {"GET /status": (200, status("users", 7)), "POST /reload": (404, {"detail": NO_RELOAD})}
    with control_socket(project.folder / ".pywatt" / "a.sock", answers):
        done = called(["reload"], project.folder, LOCAL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "server.reload" in done.stderr


def test_without_a_host_it_is_exit_code_1(project: Project) -> None:
    done = called(["reload"], project.folder, LOCAL)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no host is running here" in done.stderr
    with control_socket(project.folder / ".pywatt" / "a.sock", {"GET /status": (200, status("users", 7))}):
        done = called(["reload", "billing"], project.folder, LOCAL)
    assert done.returncode == 1
    assert 'no host or module named "billing" is running here' in done.stderr


def test_of_several_hosts_one_has_to_be_named(project: Project) -> None:
    folder = project.folder / ".pywatt"
    answers = {"POST /reload": (200, GOOD)}
    with (
        control_socket(folder / "a.sock", {**answers, "GET /status": (200, status("users", 7))}) as first,
        control_socket(folder / "b.sock", {**answers, "GET /status": (200, status("users", 8))}) as second,
    ):
        done = called(["reload", "users"], project.folder, LOCAL)
        assert done.returncode == 2
        assert "users (7), users (8)" in done.stderr
        assert called(["reload", "8"], project.folder, LOCAL).returncode == 0
    assert (first, second) == ([], [("POST /reload", {})])


def test_an_up_reloads_all_modules_or_the_one_that_is_named(project: Project) -> None:
    modules: list[dict[str, Any]] = [{"id": name, "replicas": []} for name in ("users", "billing")]
    verdict = {"ok": False, "exit_code": 3, "modules": {"users": GOOD, "billing": refused("import", 3, "")}}
    answers = {
        "GET /status": (200, status("shop", 7, kind="workspace", modules=modules)),
        "POST /reload": (200, verdict),
    }
    with control_socket(project.folder / ".pywatt" / "up.sock", answers) as asked:
        done = called(["reload"], project.folder, LOCAL)
        assert done.returncode == 3
        assert done.stdout == "users: generation 5 is in use after 0.8 s\n"
        assert done.stderr.startswith("billing: not reloaded, because the application could not be imported; ")
        called(["reload", "billing"], project.folder, LOCAL)
    assert asked == [("POST /reload", {}), ("POST /reload", {"module": "billing"})]


def test_a_slow_reload_has_a_line_of_progress(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr("pywatt_host.cli.reload._PROGRESS_DELAY", 0.01)
    monkeypatch.setattr("pywatt_host.cli.reload.echo", lambda text, err=False: told.set() if err else None)

    def slow() -> tuple[int, Any]:
        return (200, GOOD) if told.wait(20) else (404, {})

    with control_socket(project.folder / "c.sock", {"GET /status": (200, status("users", 7)), "POST /reload": slow}):
        assert called(["reload", "--control", "c.sock"], project.folder, LOCAL).returncode == 0
    assert told.is_set()


def test_a_host_that_ends_before_its_verdict_is_exit_code_1(project: Project) -> None:
    answers: dict[str, Answer] = {"GET /status": (200, status("users", 7)), "POST /reload": None}
    with control_socket(project.folder / "c.sock", answers):
        done = called(["reload", "--control", "c.sock"], project.folder, LOCAL)
    assert done.returncode == 1
    assert "users (7): the connection closed before the answer arrived" in done.stderr
