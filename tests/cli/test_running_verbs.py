"""`ps`, `logs` and `send`, as people and as programs read them. What answers is a control socket alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import pytest

from pywatt_host.cli.logs import level_of
from pywatt_host.cli.ps import since, size
from tests.cli.control_sockets import Answer, control_socket, status
from tests.processes import Project

# ps -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (59, "59s"), (192, "3m12s"), (7500, "2h05m"), (356_400, "4d03h"), (-5, "0s")]
)
def test_times_are_for_people(seconds: float, shown: str) -> None:
    assert since(time.time() - seconds - 0.2) == shown


@pytest.mark.parametrize(
    ("octets", "shown"), [(None, "-"), (1000, "1.0 KiB"), (43_201_331, "41.2 MiB"), (1_400_000_000, "1.3 GiB")]
)
def test_sizes_are_for_people(octets: int | None, shown: str) -> None:
    assert size(octets) == shown


def replica(state: str, **more: Any) -> dict[str, Any]:
    healthy = {"state": state, "healthy": state == "healthy", "replica": 1, "pid": None, "restarts": 0}
    return {**healthy, "since": time.time() - 65, "listen": None, **more}


def workspace(**more: Any) -> dict[str, Any]:
    modules = [
        {"id": "users", "replicas": [replica("running", why="db failing: connection refused", pid=os.getpid())]},
        {"id": "billing", "replicas": [replica("backoff", why="exit code 3", restarts=2)]},
    ]
    return status("shop", 4711, kind="workspace", modules=modules, **{"status": "unhealthy", **more})


def test_ps_says_that_nothing_runs(project: Project) -> None:
    done = project.cli("ps")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("nothing runs here")


def test_ps_tells_what_is_wrong_and_how_much_memory_a_process_has(project: Project) -> None:
    path = project.folder / "c.sock"
    with control_socket(path, {"GET /status": (200, workspace())}):
        lines = project.cli("ps", "--control", str(path)).stdout.splitlines()
        (document,) = json.loads(project.cli("ps", "--json", "--control", str(path)).stdout)
    assert lines[0].split() == ["MODULE", "VERSION", "PID", "STATUS", "UP", "MEMORY", "LISTEN"]
    assert lines[2].split()[:5] == ["users", "-", str(os.getpid()), "unhealthy", "1m05s"]
    assert lines[2].split()[6] == "MiB"
    assert lines[3].strip() == "db failing: connection refused"
    assert lines[4].split()[3:6] == ["backoff", "(restarts:", "2)"]
    assert lines[5].strip() == "exit code 3"
    users, billing = (module["replicas"][0] for module in document["modules"])
    assert users["memory"] > 1024**2
    assert billing["memory"] is None


def test_ps_tells_which_checks_of_a_single_host_fail(project: Project) -> None:
    checks = {"db": {"status": "failing", "error": "refused"}, "cache": {"status": "passing"}}
    path = project.folder / "c.sock"
    with control_socket(path, {"GET /status": (200, status("users", 1, status="unhealthy", checks=checks))}):
        assert project.cli("ps", "--control", str(path)).stdout.splitlines()[2].strip() == "db failing: refused"


# logs -----------------------------------------------------------------------------------------------------------------

LINES = [
    {"time": "2026-11-30T18:00:00.000Z", "module": "users", "replica": 1, "text": "plain text"},
    {
        "time": "2026-11-30T18:10:00.000Z",
        "module": "billing",
        "replica": 1,
        "text": '{"time":"2026-11-30T18:10:00.000Z","level":"error","logger":"app","message":"boom","n":1,'
        '"exception":"Traceback:\\nZeroDivisionError"}',
    },
    {
        "time": "2026-11-30T18:20:00.000Z",
        "module": "users",
        "replica": 1,
        "text": '{"time":"2026-11-30T18:20:00.000Z","level":"warning","logger":"app","message":"slow"}',
    },
]


def logs(project: Project, *arguments: str) -> list[str]:
    path = project.folder / "c.sock"
    body = "".join(json.dumps(line) + "\n" for line in LINES)
    answers: Mapping[str, Answer] = {"GET /status": (200, workspace()), "GET /logs?": (200, body.encode())}
    with control_socket(path, answers):
        done = project.cli("logs", "--control", str(path), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def texts(lines: list[str]) -> list[str]:
    return [json.loads(line)["text"].partition('"message":')[2][:6] or json.loads(line)["text"] for line in lines]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["plain text", '"boom"', '"slow"']),
        (["--level", "warning"], ['"boom"', '"slow"']),
        (["--level", "info", "-n", "1"], ['"slow"']),
        (["--grep", "bo+m"], ['"boom"']),
        (["--grep", "nothing"], []),
        (["--since", "2026-11-30T18:10:00+00:00"], ['"boom"', '"slow"']),
        (["--since", "2026-11-30T18:05:00Z", "-n", "0"], []),
        (["--since", "1s", "--level", "critical"], []),
    ],
)
def test_logs_are_selected_and_are_json_where_they_are_piped(
    project: Project, arguments: list[str], expected: list[str]
) -> None:
    assert texts(logs(project, *arguments)) == expected


def test_logs_as_text_look_as_up_prints_them(project: Project) -> None:
    assert logs(project, "--format", "text") == [
        "users   | plain text",
        "billing | 18:10:00.000 error app: boom n=1",
        "billing | Traceback:",
        "billing | ZeroDivisionError",
        "users   | 18:20:00.000 warning app: slow",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--since", "yesterday"], "neither a duration"),
        (["--since", "0001-01-01"], "neither a duration"),
        (["--grep", "("], "not a regular expression"),
    ],
)
def test_what_selects_nothing_sensible_is_a_wrong_usage(project: Project, arguments: list[str], text: str) -> None:
    done = project.cli("logs", *arguments)
    assert (done.returncode, text in done.stderr.replace("\n", " ")) == (2, True)


@pytest.mark.parametrize(
    ("text", "level"),
    [("{}", "info"), ('{"level":"WARN"}', "warning"), ('{"level":7}', "info"), ("error: x", "info"), ("{", "info")],
)
def test_the_level_of_a_line(text: str, level: str) -> None:
    assert level_of(text) == level


# send -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        ({"reply": {"ok": True}}, 0, '"ok": true'),
        ({"reply": None}, 0, "its handler returned nothing"),
        (
            {"error": {"code": "no_handler", "message": "x"}},
            1,
            'no handler for messages of the type "charge" (no_handler)',
        ),
        ({"error": {"code": "handler_failed", "message": "see id 7"}}, 1, "failed: see id 7 (handler_failed)"),
        ({"error": {"code": "card_declined", "message": "try another"}}, 1, "an error: try another (card_declined)"),
        ({"error": {"code": "timeout", "message": "x"}}, 1, "no answer within 2 s (timeout)"),
    ],
)
def test_send_tells_what_the_handler_said(project: Project, answer: dict[str, Any], code: int, text: str) -> None:
    path = project.folder / "c.sock"
    with control_socket(path, {"GET /status": (200, workspace()), "POST /send": (200, answer)}):
        done = project.cli("send", "billing", "charge", "--timeout", "2", "--control", str(path))
        machine = project.cli("send", "billing", "charge", "--timeout", "2", "--json", "--control", str(path))
    assert done.returncode == machine.returncode == code
    assert text in done.stdout + done.stderr
    assert json.loads(machine.stdout) == {"module": "billing", "type": "charge", "ok": code == 0, **answer}
    assert machine.stderr == ""
