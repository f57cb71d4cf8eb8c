"""`validate`: every fault at once, in three forms, and what looking at the application brings up."""

from __future__ import annotations

import json
import os
import socket
import time
from typing import Any

import pytest

from tests.collector import collecting
from tests.processes import Project, allowed

ASGI = "async def app(scope, receive, send): ...\n"
FASTAPI = """
    from fastapi import FastAPI
    app = FastAPI(openapi_url=None)

    @app.get("/users/{id}")
    def user(id: int): ...

    @app.post("/hidden")
    def hidden(): ...
"""


@pytest.fixture
def plain(project: Project) -> Project:
    project.write("main.py", ASGI)
    return project


def problems(project: Project, *arguments: str, **env: str) -> tuple[int, list[dict[str, Any]]]:
    done = project.cli("validate", "--format", "json", *arguments, env=env)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def codes(project: Project, *arguments: str, **env: str) -> list[tuple[str, str, str]]:
    return [(each["severity"], each["code"], each["path"]) for each in problems(project, *arguments, **env)[1]]


def test_a_good_manifest_is_valid(plain: Project) -> None:
    plain.write("pywatt.yaml", "app: main:app\n")
    done = plain.cli("validate")
    assert (done.returncode, done.stdout, done.stderr) == (0, "valid\n", "")
    assert problems(plain) == (0, [])
    assert plain.cli("validate", "main:app").returncode == 0


FAULTY = "app: main:app\nserver:\n  listn: :80\nhealth: maybe\n"


def test_every_fault_is_shown_with_line_caret_suggestion_and_count(plain: Project) -> None:
    plain.write("pywatt.yaml", FAULTY)
    done = plain.cli("validate", "--no-import")
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines[0] == 'pywatt.yaml:3:3: server.listn: unknown key (did you mean "listen"?) [unknown-key]'
    assert lines[2].strip() == "^~~~~"
    assert any(line.startswith("pywatt.yaml:4:9: health: ") for line in lines)
    assert lines[-1] == "2 errors"
    assert "\x1b" not in done.stdout


def test_the_json_form_has_every_field_and_the_github_form_annotates(plain: Project) -> None:
    plain.write("pywatt.yaml", FAULTY)
    code, found = problems(plain, "--no-import")
    assert code == 2
    assert [list(each) for each in found] == [
        ["file", "line", "column", "path", "code", "severity", "message", "hint"]
    ] * 2
    assert [(each["line"], each["column"], each["severity"]) for each in found] == [(3, 3, "error"), (4, 9, "error")]
    assert (
        plain.cli("validate", "--json", "--no-import").stdout
        == plain.cli("validate", "--format", "json", "--no-import").stdout
    )
    done = plain.cli("validate", "--format", "github", "--no-import")
    assert done.returncode == 2
    assert done.stdout.splitlines()[0].startswith("::error file=pywatt.yaml,line=3,col=3,")


def test_several_manifests_are_checked_at_once(plain: Project) -> None:
    plain.write("a.yaml", "app: main:app\n")
    plain.write("b.yaml", "app: 7\n")
    plain.write("c.yaml", "nonsense: 1\n")
    code, found = problems(plain, "--no-import", "a.yaml", "b.yaml", "c.yaml", "d.yaml")
    assert code == 2
    assert {each["file"] for each in found} == {"b.yaml", "c.yaml", "d.yaml"}


def test_an_unset_variable_is_an_error_and_with_allow_unset_a_warning_that_strict_makes_fail(plain: Project) -> None:
    plain.write("pywatt.yaml", "app: main:app\nconfig: {key: '${NOT_SET_ANYWHERE}'}\n")
    assert [each[0] for each in codes(plain)] == ["error"]
    assert problems(plain)[0] == 2
    code, found = problems(plain, "--allow-unset")
    assert (code, [each["severity"] for each in found]) == (0, ["warning"])
    assert problems(plain, "--allow-unset", "--strict")[0] == 2
    assert problems(plain, NOT_SET_ANYWHERE="x") == (0, [])
    plain.write("more.env", "NOT_SET_ANYWHERE=x\n")
    assert problems(plain, "--env-file", "more.env") == (0, [])


def test_overrides_and_profiles_are_checked_as_run_would_see_them(plain: Project) -> None:
    plain.write("pywatt.yaml", "app: main:app\nprofiles: {bad: {server: {listen: nonsense}}, good: {}}\n")
    assert problems(plain, "--profile", "good")[0] == 0
    assert problems(plain, "--profile", "bad")[0] == 2
    assert problems(plain, "--set", "logging.level=loud")[0] == 2
    assert problems(plain, PYWATT__LOGGING__LEVEL="loud")[0] == 2
    assert problems(plain, PYWATT_PROFILE="bad")[0] == 2


# Looking at the application -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("app", "code", "severity"),
    [
        ("nowhere:app", "app-no-module", "error"),
        ("main:missing", "app-no-attribute", "error"),
        ("raises:app", "app-module-raised", "error"),
        ("needy:app", "app-missing-dependency", "warning"),
        ("main:number", "app-not-an-app", "error"),
    ],
)
def test_what_keeps_an_application_from_being_had_is_at_its_key(
    plain: Project, app: str, code: str, severity: str
) -> None:
    plain.write("main.py", ASGI + "number = 7\n")
    plain.write("raises.py", "1 / 0\n")
    plain.write("needy.py", "import nonexistent_dependency\n")
    plain.write("pywatt.yaml", f"module: {{id: x}}\napp:\n  import_path: {app}\n")
    status, found = problems(plain)
    assert [(each["code"], each["severity"], each["line"]) for each in found] == [(code, severity, 3)]
    assert status == (0 if severity == "warning" else 2)
    assert problems(plain, "--strict")[0] == 2
    assert problems(plain, "--no-import") == (0, [])


def test_a_factory_is_never_called(plain: Project) -> None:
    plain.write("main.py", "def create_app():\n    open('called', 'w').close()\n    raise SystemExit(9)\n")
    plain.write("pywatt.yaml", "app: main:create_app\n")
    assert problems(plain) == (0, [])
    assert not (plain.folder / "called").exists()


def test_drift_is_a_warning_at_the_endpoint_in_both_directions(project: Project) -> None:
    project.write("main.py", FASTAPI)
    project.write("pywatt.yaml", "app: main:app\nendpoints:\n  - {path: '/users/{name}'}\n  - {path: /gone}\n")
    code, found = problems(project)
    assert code == 0
    seen = {each["code"]: (each["severity"], each["line"], each["message"]) for each in found}
    assert list(map(len, (found, seen))) == [2, 2]
    assert seen["drift-undeclared"][:2] == ("warning", 3)
    assert seen["drift-missing"][:2] == ("warning", 4)
    assert "/hidden" in seen["drift-undeclared"][2]
    assert "/gone" in seen["drift-missing"][2]
    assert problems(project, "--strict")[0] == 2
    project.write("pywatt.yaml", "app: main:app\nendpoints: auto\n")
    assert problems(project, "--strict") == (0, [])


def test_many_routes_that_are_not_declared_are_one_warning(plain: Project) -> None:
    plain.write(
        "main.py",
        """
        from starlette.applications import Starlette
        from starlette.routing import Route

        app = Starlette(routes=[Route(f"/p{number}", lambda request: None) for number in range(12)])
        """,
    )
    plain.write("pywatt.yaml", "app: main:app\nendpoints: [{path: /p0}]\n")
    _, (found,) = problems(plain)
    shown = "GET /p1, GET /p2, GET /p3 and 8 more"
    assert found["message"] == f"main:app has 11 routes that are not declared and therefore not served: {shown}"


def test_a_rule_that_protects_no_route_is_a_warning_with_the_route_that_was_meant(project: Project) -> None:
    project.write("main.py", FASTAPI)
    auth = "app: main:app\nauth: {jwt: {secret: 'a secret of more than thirty-two bytes'}}\n"
    rules = "  - {path: '/user/{id}', auth: jwt}\n  - {path: '/users/{id}', auth: jwt}\n"
    project.write("pywatt.yaml", f"{auth}endpoints:\n  from: auto\n  auth: none\n  rules:\n{rules}")
    code, found = problems(project)
    assert code == 0
    assert [(each["code"], each["severity"], each["path"], each["line"]) for each in found] == [
        ("drift-rule", "warning", "endpoints.rules[0].path", 7)
    ]
    assert "no application has a route for /user/{id}" in found[0]["message"]
    assert found[0]["hint"] == "did you mean /users/{id}?"
    assert problems(project, "--strict")[0] == 2
    assert "endpoints.rules[0].path: no application has a route for /user/{id}" in project.cli("routes").stderr
    project.write("pywatt.yaml", f"{auth}endpoints:\n{rules}")
    missing = [each["hint"] for each in problems(project)[1] if each["code"] == "drift-missing"]
    assert missing == ["did you mean /users/{id}?"]


COUNTERS = """
from fastapi import FastAPI
from prometheus_client import make_asgi_app

app = FastAPI()
app.mount("/metrics", make_asgi_app())
app.get("/livez")(lambda: "alive")
app.get("/health")(lambda: "healthy")
app.post("/readyz")(lambda: "posted")
"""


def test_a_route_that_a_path_of_the_host_hides_is_a_warning(project: Project) -> None:
    project.write("main.py", COUNTERS)
    project.write("pywatt.yaml", "app: main:app\nmetrics: true\nserver:\n  listen: 127.0.0.1:0\n")
    code, found = problems(project)
    assert code == 0
    hidden = [each for each in found if each["code"] == "drift-hidden"]
    assert [each["message"] for each in hidden] == [
        f"the host answers {path} itself, and hides the route of main:app there" for path in ("/livez", "/metrics")
    ]
    assert hidden[1]["line"] == 2
    assert "set metrics.path to another path, such as /host/metrics" in hidden[1]["hint"]
    cured = "app: main:app\nmetrics: /host-metrics\nhealth: {liveness: /alive}\nserver: {listen: 127.0.0.1:0}\n"
    project.write("pywatt.yaml", cured)
    assert "drift-hidden" not in [each["code"] for each in problems(project)[1]]
    project.write("pywatt.yaml", "app: main:app\nmetrics: true\nserver: {admin: {listen: 127.0.0.1:0}}\n")
    assert problems(project) == (0, [])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('on stdout')\nimport sys; print('on stderr', file=sys.stderr)\n" + ASGI, ""),
        ("import os, sys\nos.write(1, b'raw')\n" + ASGI, ""),
        ("raise SystemExit(0)\n", "SystemExit"),
        ("exit()\n", "SystemExit"),
        ("import os\nos._exit(0)\n", "ended the process (exit code 0)"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "ended the process (killed by SIGKILL)"),
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(3600,)).start()\n" + ASGI, ""),
        ("import sys\nsys.stdin.read()\n" + ASGI, ""),
    ],
)
def test_whatever_a_module_does_when_it_is_imported_the_answer_is_an_answer(
    plain: Project, code: str, words: str
) -> None:
    plain.write("main.py", code)
    plain.write("pywatt.yaml", "app: main:app\n")
    status, found = problems(plain)
    assert (status == 0) == (words == "")
    assert [words in each["message"] for each in found] == ([True] if words else [])


def test_an_import_that_hangs_is_cut_off_and_leaves_no_process(plain: Project) -> None:
    from pywatt_host.cli.inspection import Request, inspect_apps
    from pywatt_host.manifest import Source

    plain.write("main.py", "import os, time\nopen(__file__ + '.pid', 'w').write(str(os.getpid()))\ntime.sleep(3600)\n")
    plain.write("pywatt.yaml", "app: main:app\n")
    asked = Request(Source.file(plain.folder), None, (), None, allow_unset=False, build=False)
    begun = time.monotonic()
    found = inspect_apps(asked, timeout=3.0)
    assert time.monotonic() - begun < 30
    assert found.failure is not None
    assert found.failure.message.startswith("importing the application took longer than 3s; it is at ")
    assert found.failure.message.endswith("main.py:3 (time.sleep(3600))")
    pid = plain.folder / "main.py.pid"
    if pid.exists():  # it had come so far
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


@pytest.mark.slow
def test_an_answer_that_is_larger_than_a_pipe_is_read_while_the_child_writes_it(plain: Project) -> None:
    """A pipe holds 64 KiB; the routes of this application are more than a megabyte."""
    plain.write("main.py", MANY)
    plain.write("pywatt.yaml", "app: main:app\n")
    assert problems(plain) == (0, [])
    listed = json.loads(plain.cli("routes", "--json").stdout)
    assert (len(listed), listed[-1]["path"]) == (10_000, "/things/9999/{id}")


MANY = """
from starlette.applications import Starlette
from starlette.routing import Route

app = Starlette(routes=[Route(f"/things/{number}/{{id}}", print, methods=["GET"]) for number in range(10_000)])
"""


def test_an_import_that_serves_is_told_with_its_place_long_before_the_limit(plain: Project) -> None:
    plain.write("main.py", "from flask import Flask\n\napp = Flask(__name__)\napp.run(port=0)\n")
    plain.write("pywatt.yaml", "app: main:app\n")
    begun = time.monotonic()
    code, found = problems(plain)
    assert time.monotonic() - begun < allowed(10)
    assert (code, [each["code"] for each in found]) == (2, ["app-unusable"])
    assert "main.py:4 (app.run(port=0)) serves while it is imported (it listens on 127.0.0.1:" in found[0]["message"]
    assert found[0]["hint"] == 'move that call under `if __name__ == "__main__":`'


def test_an_application_that_writes_to_strange_descriptors_is_told_so(plain: Project) -> None:
    forged = 'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b"pywatt-inspection:garbage\\n")\n'
    plain.write("main.py", forged + "    except OSError:\n        pass\n" + ASGI)
    plain.write("pywatt.yaml", "app: main:app\n")
    done = plain.cli_process("validate", "--format", "json")  # it must not write to descriptors of the tests
    assert done.stderr == ""
    (found,) = json.loads(done.stdout)
    assert (done.returncode, found["code"]) == (2, "app-unusable")
    assert "file descriptors that it has not opened" in found["message"]


def test_an_import_that_starts_an_event_loop_says_what_to_do(plain: Project) -> None:
    served = "async def app(scope, receive, send): ...\n\nimport asyncio\nasyncio.run(asyncio.sleep(1))\n"
    plain.write("main.py", served)
    plain.write("pywatt.yaml", "app: main:app\n")
    code, found = problems(plain)
    assert (code, found[0]["code"]) == (2, "app-module-raised")
    assert found[0]["message"].endswith("/main.py:4")
    assert found[0]["hint"].startswith('move the call that serves or waits there under if __name__ == "__main__"')


RAISES = """
def settings():
    try:
        int("no number")
    except ValueError as error:
        fault = LookupError("the settings cannot be read: " + "x" * 500)
        fault.add_note("set DATABASE_URL, or copy .env.example to .env")
        raise fault from error

settings()
"""


def test_what_the_import_raised_is_shown_whole(plain: Project) -> None:
    """With its notes, its causes, and the user's frames only."""
    plain.write("main.py", RAISES)
    plain.write("pywatt.yaml", "app: main:app\n")
    _, found = problems(plain)
    detail = found[0]["detail"]
    assert detail.startswith("Traceback (most recent call last):\n")
    assert "x" * 500 in detail
    assert detail.endswith("\nset DATABASE_URL, or copy .env.example to .env")
    assert "ValueError: invalid literal" in detail
    assert "importlib" not in detail
    shown = plain.cli("validate").stdout
    assert "\n    set DATABASE_URL, or copy .env.example to .env\n" in shown
    assert "    set DATABASE_URL, or copy .env.example to .env\n" in plain.cli("routes").stderr


def test_the_last_words_of_an_import_that_ends_the_process_are_shown(plain: Project) -> None:
    plain.write("main.py", "import os\nprint('licence \x1b[31mexpired')\nos._exit(4)\n")
    plain.write("pywatt.yaml", "app: main:app\n")
    _, found = problems(plain)
    assert found[0]["detail"] == "licence \x1b[31mexpired"
    assert "    licence \\x1b[31mexpired\n" in plain.cli("validate").stdout


def test_live_also_binds(plain: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plain.write("pywatt.yaml", f"app: main:app\nserver:\n  listen: 127.0.0.1:{port}\n")
        assert problems(plain, "--no-import") == (0, [])
        code, found = problems(plain, "--no-import", "--live")
        assert (code, found[0]["code"], found[0]["line"]) == (2, "bind", 3)
    assert problems(plain, "--no-import", "--live") == (0, [])


def test_live_asks_the_endpoint_of_traces(plain: Project) -> None:
    with collecting() as collector:
        plain.manifest(tracing={"endpoint": collector.url, "headers": {"key": "k" * 10}})
        assert problems(plain, "--no-import", "--live") == (0, [])
        assert (collector.headers[0]["key"], collector.spans()) == ("k" * 10, [])
        collector.status = 401
        code, found = problems(plain, "--no-import", "--live")
        assert (code, found[0]["path"], found[0]["code"]) == (2, "tracing.endpoint", "unreachable")
        assert found[0]["message"] == f"{collector.url}/v1/traces: it answered 401"
        plain.manifest(tracing={"endpoint": collector.url, "headers": {"key": "${secret:PYWATT_TEST_MISSING}"}})
        _, found = problems(plain, "--no-import", "--live")
        assert {each["code"] for each in found} == {"secret-missing"}


def test_live_warns_of_secrets_that_are_empty_or_end_with_a_line_break(plain: Project) -> None:
    plain.manifest(secrets=["PYWATT_TEST_EMPTY", "PYWATT_TEST_LINE"])
    values = {"PYWATT_TEST_EMPTY": "", "PYWATT_TEST_LINE": "a secret value\n"}
    code, found = problems(plain, "--no-import", "--live", "--set", "server.listen=127.0.0.1:0", **values)
    assert (code, [(each["severity"], each["path"], each["code"]) for each in found]) == (
        0,
        [
            ("warning", "secrets.PYWATT_TEST_EMPTY", "secret-empty"),
            ("warning", "secrets.PYWATT_TEST_LINE", "secret-whitespace"),
        ],
    )


def test_live_fetches_secrets_and_connects_channels(plain: Project) -> None:
    """What is missing stands at its key; what an orchestrator may have is a warning."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        channels = {"tcp": {"connect": f"127.0.0.1:{nobody.getsockname()[1]}"}, "ipc": {"connect": "no.sock"}}
        secrets = {"sources": ["env"], "keys": {"PYWATT_TEST_MISSING": {"description": "Opens the door"}}}
        plain.manifest(secrets=secrets, channels=channels)
        code, found = problems(plain, "--no-import", "--live")
        assert code == 2
        assert {(each["path"], each["code"]) for each in found} == {
            ("secrets.keys.PYWATT_TEST_MISSING", "secret-missing"),
            ("channels.tcp.connect", "unreachable"),
            ("channels.ipc.connect", "unreachable"),
        }
        assert "Opens the door" in next(each["message"] for each in found if each["code"] == "secret-missing")
        channels = {"tcp": {"connect": f"127.0.0.1:{there.getsockname()[1]}"}}
        plain.manifest(secrets=["PYWATT_TEST_MISSING"], channels=channels)
        code, found = problems(plain, "--no-import", "--live")
        assert (code, [each["severity"] for each in found]) == (0, ["warning"])
