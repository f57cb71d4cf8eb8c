"""A decorated function: called, imported, named by a manifest, run as a script."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import zipapp
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pywatt_host import AnnouncedEndpoint, AppState, ManifestError, ProtocolError, pywatt_module
from pywatt_host.app.decorated import Decorated
from pywatt_host.decorator.module import DecoratedModule, ModuleApp
from pywatt_host.decorator.scripts import load_script, module_of
from pywatt_host.exceptions import AppLoadError
from pywatt_host.manifest.values.names import Script
from tests.hosting import hello, hosted, run
from tests.processes import PATIENCE, Project
from tests.scripted import Orchestrated

MODULE = """
from pywatt_host import AnnouncedEndpoint, pywatt_module
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

print("imported as", __name__)

@pywatt_module(endpoints=[AnnouncedEndpoint("/")], metrics=True, config={"greeting": "hello"})
def create_app(app_state):
    def root(request):
        return PlainTextResponse(f"{app_state.config['greeting']} from {app_state.module_id}")
    return Starlette(routes=[Route("/", root)])
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    yield project
    project.end()


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://module")


# Called ---------------------------------------------------------------------------------------------------------------


def test_awaiting_it_gives_the_started_application_with_its_edge() -> None:
    events: list[str] = []

    @pywatt_module(endpoints=[AnnouncedEndpoint("/a")])
    def create_app(app_state: AppState) -> Any:
        app_state.on_startup(lambda: events.append("started"))
        app_state.on_shutdown(lambda: events.append("stopped"))
        return hello

    async def main() -> None:
        app = await create_app({"module_id": "users", "orchestrator_api": "http://x", "listen": "127.0.0.1:7"})
        async with client(app) as http:
            answer = await http.get("/a")
            assert (answer.text, "x-request-id" in answer.headers) == ("GET /a", True)
            assert (await http.get("/b")).status_code == 404
            assert (await http.get("/livez")).json() == {"status": "alive"}
        assert (app.state.module_id, app.state.orchestrator_api) == ("users", "http://x")
        assert app.state.init.listen == "127.0.0.1:7"
        assert str(app.state.manifest.server.listen[0]) == "127.0.0.1:7"
        assert events == ["started"]
        await create_app.aclose()
        assert events == ["started", "stopped"]
        await create_app.aclose()

    run(main)
    assert events == ["started", "stopped"]


def test_two_of_one_function_live_beside_each_other_and_leaving_the_block_closes_one() -> None:
    @pywatt_module
    async def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        async with create_app({"module_id": "one"}) as one, create_app({"module_id": "two"}) as two:
            assert (one.state.module_id, two.state.module_id) == ("one", "two")
            await one.aclose()
            assert one.state.draining.is_set()
            assert not two.state.draining.is_set()

    run(main)


def test_with_an_app_state_it_is_the_function_itself() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        return app_state

    async def main() -> None:
        async with hosted(None, hello) as under_test:
            assert create_app(under_test.state) is under_test.state

    run(main)


def test_it_keeps_the_name_and_the_text_of_the_function() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        """Make it."""

    names = [getattr(create_app, name) for name in ("__name__", "__doc__", "__module__")]
    assert names == ["create_app", "Make it.", __name__]


def test_env_of_init_reaches_the_secrets() -> None:
    @pywatt_module(secrets=["TOKEN"])
    def create_app(app_state: AppState) -> Any:
        assert app_state.secrets["TOKEN"].expose_secret() == "of the orchestrator"
        return hello

    async def main() -> None:
        async with create_app({"env": {"TOKEN": "of the orchestrator"}}) as app:
            assert "of the orchestrator" not in repr(app.state.init)

    run(main)


def test_an_init_that_is_none_is_refused() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        wrong: list[Any] = [{"module_id": 5}, {"listen": {"Pipe": 1}}, "init"]
        for init in wrong:
            with pytest.raises(ProtocolError):
                await create_app(init)

    run(main)


def test_what_cannot_start_is_raised_and_nothing_is_left_behind() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        app_state.spawn(asyncio.sleep(1000))
        raise LookupError("no stove")

    async def main() -> None:
        before = asyncio.all_tasks()
        with pytest.raises(AppLoadError, match="the factory raised LookupError: no stove") as caught:
            await create_app()
        assert isinstance(caught.value.__cause__, LookupError)
        assert asyncio.all_tasks() == before

    run(main)


def test_an_await_that_is_cancelled_while_it_starts_unwinds() -> None:
    @pywatt_module()
    async def create_app(app_state: AppState) -> Any:
        entered.set()
        await asyncio.sleep(1000)

    entered = asyncio.Event()

    async def main() -> None:
        before = asyncio.all_tasks()
        starting = asyncio.ensure_future(create_app())
        await entered.wait()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        assert asyncio.all_tasks() == before

    run(main)


def test_it_is_closed_with_the_event_loop_where_nobody_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    from fastapi import FastAPI

    stopped: list[bool] = []

    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        app_state.on_shutdown(lambda: stopped.append(True))
        return FastAPI()

    async def main() -> ModuleApp:
        return await create_app()

    asyncio.run(main())
    assert stopped == [True]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
    asyncio.run(create_app.aclose())


def test_another_server_may_run_its_lifespan() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        app = await create_app()
        inbox = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
        sent: list[str] = []

        async def receive() -> Any:
            return inbox.pop(0)

        async def send(message: Any) -> None:
            sent.append(message["type"])

        await app({"type": "lifespan"}, receive, send)
        assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
        assert app.state.draining.is_set()

    run(main)


def test_channels_do_not_listen(tmp_path: Path) -> None:
    @pywatt_module(enable_ipc=True, ipc_config={"path": str(tmp_path / "a.sock")})
    def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        async with create_app():
            assert not (tmp_path / "a.sock").exists()

    run(main)


@pytest.mark.parametrize("framework", ["fastapi", "flask", "wsgi"])
def test_the_framework_is_checked_when_the_function_returns(framework: Any) -> None:
    @pywatt_module(framework=framework)
    def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        with pytest.raises(AppLoadError, match=f'framework="{framework}", but the function returned the function'):
            await create_app()

    run(main)


def test_a_function_without_parameters_will_do() -> None:
    @pywatt_module()
    def create_app() -> Any:
        return hello

    async def main() -> None:
        async with create_app() as app, client(app) as http:
            assert (await http.get("/x")).text == "GET /x"

    run(main)


@pytest.mark.parametrize("decorate", [lambda: pywatt_module("users.yaml"), lambda: pywatt_module()(print)])  # type: ignore[call-overload]
def test_what_is_no_function_is_not_decorated(decorate: Any) -> None:
    with pytest.raises(TypeError, match="@pywatt_module decorates a function"):
        decorate()


def test_a_factory_that_raises_cancellederror_does_not_hang() -> None:
    @pywatt_module()
    async def create_app(app_state: AppState) -> Any:
        raise asyncio.CancelledError

    async def main() -> None:
        opening = asyncio.ensure_future(create_app())
        await asyncio.wait([opening])
        assert opening.cancelled()

    run(main)


def test_it_is_closed_from_another_event_loop_while_its_own_runs() -> None:
    stopped: list[bool] = []

    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        app_state.on_shutdown(lambda: stopped.append(True))
        return hello

    opened, over = threading.Event(), asyncio.Event()

    async def first() -> None:
        await create_app()
        opened.set()
        await over.wait()

    loops: list[asyncio.AbstractEventLoop] = []

    def run_first() -> None:
        with asyncio.Runner() as runner:
            loops.append(runner.get_loop())
            runner.run(first())

    thread = threading.Thread(target=run_first)
    thread.start()
    assert opened.wait(PATIENCE)
    run(create_app.aclose)
    assert stopped == [True]
    loops[0].call_soon_threadsafe(over.set)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_closing_it_where_its_event_loop_is_paused_is_refused_and_after_the_loop_does_nothing() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        return hello

    async def opened() -> ModuleApp:
        return await create_app()

    with asyncio.Runner() as runner:
        app = runner.run(opened())
        with pytest.raises(RuntimeError, match="belongs to another event loop, which is not running"):
            run(app.aclose)
    run(app.aclose)
    run(create_app.aclose)


def test_those_that_are_closed_are_not_kept() -> None:
    @pywatt_module()
    def create_app(app_state: AppState) -> Any:
        return hello

    async def main() -> None:
        for _ in range(3):
            async with create_app():
                pass
        assert len(create_app._apps) == 1

    run(main)


# Named by a manifest --------------------------------------------------------------------------------------------------


@pywatt_module(endpoints=[AnnouncedEndpoint("/b"), AnnouncedEndpoint("/a")], metrics=True, secrets=["A_TOKEN"])
def named(app_state: AppState) -> Any:
    return hello


NAMED = {"app": "under_test:app", "metrics": True, "secrets": {"keys": {"A_TOKEN": {"description": "For doors"}}}}
ENDPOINTS = [{"path": "/a"}, {"path": "/b"}]


def test_a_manifest_that_says_the_same_names_it() -> None:
    async def main() -> None:
        environ = {"A_TOKEN": "a token of some length"}
        async with hosted({**NAMED, "endpoints": ENDPOINTS}, named, environ=environ) as under_test:
            assert (await under_test.get("/a")).status == 200

    run(main)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"metrics": False}, "metrics.enabled is true in the decorator and false in the manifest"),
        ({"endpoints": "auto"}, r"endpoints is \[GET /b, GET /a\] in the decorator"),
        ({"secrets": []}, "secrets.keys.A_TOKEN is there in the decorator and missing in the manifest"),
    ],
)
def test_arguments_that_differ_from_the_manifest_are_a_fault(changed: dict[str, Any], said: str) -> None:
    async def main() -> None:
        with pytest.raises(AppLoadError, match=said) as caught:
            async with hosted({**NAMED, "endpoints": ENDPOINTS, **changed}, named, environ={"A_TOKEN": "a" * 20}):
                pass
        assert caught.value.reason == "decorator-differs"

    run(main)


def test_what_is_laid_over_the_manifest_is_not_held_against_the_decorator() -> None:
    async def main() -> None:
        environ = {"A_TOKEN": "a" * 20, "PYWATT__METRICS": "false"}
        async with hosted({**NAMED, "endpoints": ENDPOINTS}, named, environ=environ) as under_test:
            assert (await under_test.get("/metrics")).status == 404

    run(main)


# A file ---------------------------------------------------------------------------------------------------------------


def test_the_module_of_a_file_is_named_with_its_packages(tmp_path: Path) -> None:
    package = tmp_path / "users" / "web"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    assert module_of(package / "api.py") == (tmp_path, "users.web.api")
    assert module_of(package / "__init__.py") == (tmp_path, "users.web")
    assert module_of(tmp_path / "main.py") == (tmp_path, "main")


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Write a file and load the decorated function in it."""
    before, path = set(sys.modules), sys.path[:]

    def load(text: str, name: str | None = None) -> Decorated:
        file = tmp_path / "written.py"
        file.write_text(text)
        return load_script(Script(file, name))

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name == "written":
            del sys.modules[name]


IMPORT = "from pywatt_host import pywatt_module\n"
ONE = "@pywatt_module\ndef one(): ...\n"
TWO = "@pywatt_module\ndef two(): ...\n"


def test_the_one_decorated_function_of_a_file_is_found(loaded: Any, tmp_path: Path) -> None:
    module = loaded(IMPORT + ONE + "alias = one\n")
    assert (module.import_path, module.directory, module.file) == ("written:one", tmp_path, tmp_path / "written.py")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (IMPORT + ONE + TWO, None, "several functions in the file are decorated: one, two"),
        (IMPORT + ONE, "other", "`other` is not a function decorated"),
        ("app = 5\n", None, 'to serve an app in the file, write "written:app"'),
    ],
)
def test_a_file_without_one_such_function_is_a_fault(loaded: Any, text: str, name: str | None, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        loaded(text, name)


def test_one_of_several_functions_is_named(loaded: Any) -> None:
    assert loaded(IMPORT + ONE + TWO, "two").import_path == "written:two"


@pytest.mark.parametrize("name", ["users.v2.py", "__main__.py", "my-users/__init__.py"])
def test_a_file_that_cannot_be_imported_by_its_name_is_a_fault(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(IMPORT + ONE)
    with pytest.raises(ManifestError, match=rf"a file named {file.name} cannot be imported \(rename it"):
        load_script(Script(file))


def test_a_decorator_above_ours_is_named(loaded: Any) -> None:
    above = "import functools\n@lambda f: functools.wraps(f)(lambda s: f(s))\n"
    with pytest.raises(ManifestError, match=r"wrapped by another decorator: one \(put @pywatt_module above"):
        loaded(IMPORT + above + ONE)


def test_a_file_that_raises_keeps_its_own_traceback(loaded: Any) -> None:
    with pytest.raises(AppLoadError, match=r"written.py: importing `written` raised ZeroDivisionError") as caught:
        loaded("1 / 0\n")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# Run ------------------------------------------------------------------------------------------------------------------


def test_a_script_is_imported_once_under_its_own_name_and_runs(project: Project) -> None:
    project.write("users.py", MODULE + '\nprint("to its end", __name__)\n')
    host = project.start([sys.executable, "users.py", "--listen", "127.0.0.1:0", "--log-format", "json"])
    assert host.get("/").body == f"hello from {project.folder.name}".encode()
    assert host.get("/metrics").status == 200
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    printed = host.stdout.decode().splitlines()
    assert printed == ["imported as __main__", "imported as users", "to its end users"]


def test_a_module_of_a_package_runs_with_dash_m_and_by_its_file(project: Project) -> None:
    project.write("team/__init__.py", "")
    project.write("team/names.py", "GREETING = 'hi'\n")
    project.write("team/users.py", "from .names import GREETING\n" + MODULE)
    options = ["--listen", "127.0.0.1:0", "--log-format", "json"]
    for command in (["-m", "team.users"], ["-m", "pywatt_host", "run", "team/users.py"]):
        host = project.start([sys.executable, *command, *options])
        assert host.get("/").body == f"hello from {project.folder.name}".encode()
        host.signal(signal.SIGTERM)
        assert host.wait() == 0


def served(project: Project, *command: str) -> None:
    """The module of the command answers and stops."""
    host = project.start([sys.executable, *command, "--listen", "127.0.0.1:0", "--log-format", "json"])
    assert host.get("/").status == 200
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def test_packages_without_init_run_with_dash_m(project: Project) -> None:
    project.write("team/names.py", "")
    project.write("team/users.py", "from . import names\n" + MODULE)
    served(project, "-m", "team.users")


@pytest.mark.parametrize("name", ["módulo.py", "my app.py", "2nd-app.py"])
def test_names_that_no_import_path_can_hold_run(project: Project, name: str) -> None:
    project.write(name, MODULE.replace("create_app", "créer"))
    served(project, name)
    served(project, "-m", "pywatt_host", "run", f"{name}:créer")


def test_a_function_wrapped_by_a_decorator_of_another_file_runs(project: Project) -> None:
    project.write(
        "lib/traced.py",
        """
        import functools

        def traced(function):
            @functools.wraps(function)
            def inner(*args, **kwargs):
                return function(*args, **kwargs)
            return inner
        """,
    )
    project.write(
        "users.py", "from lib.traced import traced\n" + MODULE.replace("\ndef create", "\n@traced\ndef create")
    )
    served(project, "users.py")


def test_beside_a_linked_file_is_beside_the_file_itself(project: Project) -> None:
    project.write("src/users.py", "import names\n" + MODULE)
    project.write("src/names.py", "")
    (project.folder / "users.py").symlink_to("src/users.py")
    served(project, "users.py")
    served(project, "-m", "pywatt_host", "run", "users.py")


def test_a_function_in_an_archive_runs_with_run_module(project: Project) -> None:
    project.write("app/users.py", MODULE)
    project.write(
        "app/__main__.py",
        "import sys\nfrom users import create_app\nfrom pywatt_host import run_module\n"
        "sys.exit(run_module(create_app, sys.argv[1:]))\n",
    )
    zipapp.create_archive(project.folder / "app", project.folder / "users.pyz")
    served(project, "users.pyz")


@pytest.mark.parametrize("name", ["serve", "app/__main__.py"])
def test_a_script_that_cannot_be_imported_says_so(project: Project, name: str) -> None:
    project.write(name, MODULE)
    host = project.start([sys.executable, name])
    assert host.wait() == 2
    assert "to run_module" in "\n".join(host.lines)


def test_decorating_under_main_alone_says_why_nothing_runs(project: Project) -> None:
    project.write(
        "users.py",
        """
        from pywatt_host import pywatt_module

        def create_app(app_state): ...

        if __name__ == "__main__":
            pywatt_module()(create_app)
        """,
    )
    host = project.start([sys.executable, "users.py"])
    assert host.wait() == 2
    assert 'not in a function or under if __name__ == "__main__"' in "\n".join(host.lines)


def test_run_module_gives_the_exit_code(project: Project) -> None:
    project.write("users.py", MODULE)
    project.write(
        "main.py",
        """
        import sys, time
        from pywatt_host import run_module
        from users import create_app

        options = ["--listen", "127.0.0.1:0", "--log-format", "json", "--set", "server.timeouts.shutdown=100ms"]
        code = run_module(create_app, options)
        time.sleep(1)  # longer than the process would have to stop, if it did not go on
        print("it gave", code)
        sys.exit(code + 7)
        """,
    )
    host = project.start([sys.executable, "main.py"])
    assert host.ready
    host.signal(signal.SIGTERM)
    assert host.wait() == 7
    assert host.stdout.endswith(b"it gave 0\n")


@pytest.mark.parametrize("verb", [["run"], ["config"], ["validate"], ["routes"]])
def test_faults_of_a_decorator_have_its_line_and_end_with_2(project: Project, verb: list[str]) -> None:
    project.write("users.py", MODULE.replace('AnnouncedEndpoint("/")', 'AnnouncedEndpoint("users")'))
    done = project.cli(*verb, "users.py")
    assert done.returncode == 2
    text = done.stdout + done.stderr
    assert 'users.py:9: endpoints[0].path: "users" does not start with "/"' in text
    assert "Traceback" not in text


def test_a_script_with_a_fault_shows_no_traceback_of_ours(project: Project) -> None:
    project.write("users.py", MODULE.replace("metrics=True", 'jwt_secret=""'))
    host = project.start([sys.executable, "users.py"])
    assert host.wait() == 2
    assert "jwt_secret: expected a string" in "\n".join(host.lines)
    assert "Traceback" not in "\n".join(host.lines)


def test_a_script_that_raises_shows_the_users_traceback_alone_and_ends_with_3(project: Project) -> None:
    project.write("users.py", "import os\n" + MODULE + "\nif __name__ != '__main__':\n    1 / 0\n")
    host = project.start([sys.executable, "users.py"])
    assert host.wait() == 3
    text = "\n".join(host.lines)
    assert "ZeroDivisionError" in text
    assert "pywatt_host/" not in text


def test_config_prints_the_manifest_that_it_amounts_to(project: Project) -> None:
    project.write("users.py", MODULE)
    done = project.cli("config", "users.py", "--origins")
    assert done.returncode == 0
    assert "app.import_path" in done.stdout
    assert "# users.py:9" in done.stdout


def test_validate_and_routes_look_at_its_application(project: Project) -> None:
    project.write(
        "users.py", MODULE.replace('AnnouncedEndpoint("/")', 'AnnouncedEndpoint("/"), AnnouncedEndpoint("/gone")')
    )
    routes = project.cli("routes", "--build", "users.py")
    assert "users:create_app" in routes.stdout
    assert "missing" in routes.stdout
    assert project.cli("validate", "--strict", "users.py").returncode == 2  # metrics are public


def test_validate_takes_one_of_several_functions(project: Project) -> None:
    project.write("users.py", MODULE.replace("metrics=True, ", "") + "\n@pywatt_module\ndef other(): ...\n")
    done = project.cli("validate", "users.py:create_app")
    assert (done.stdout, done.stderr, done.returncode) == ("valid\n", "", 0)


def test_validate_says_that_a_file_cannot_be_imported(project: Project) -> None:
    project.write("users.py", "1 / 0\n" + MODULE)
    done = project.cli("validate", "--format", "json", "users.py")
    assert done.returncode == 2
    (fault,) = json.loads(done.stdout)
    assert (fault["file"], fault["code"]) == ("users.py", "app-module-raised")
    assert fault["message"].startswith("importing `users` raised ZeroDivisionError")


def test_validate_of_a_manifest_shows_the_faults_of_the_decorator_that_it_names(project: Project) -> None:
    project.write("users.py", MODULE.replace('AnnouncedEndpoint("/")', 'AnnouncedEndpoint("users")'))
    project.manifest(app="users:create_app")
    done = project.cli("validate")
    assert done.returncode == 2
    assert 'users.py:9: endpoints[0].path: "users" does not start with "/"' in done.stdout


OPEN = MODULE.replace("metrics=True", 'enable_tcp=True, tcp_config={"host": "0.0.0.0", "port": 0}')


def test_a_second_start_that_cannot_listen_leaves_the_token_of_the_first(project: Project) -> None:
    project.write("users.py", OPEN)
    token = project.folder / ".pywatt" / "channel.token"
    command = [sys.executable, "users.py", "--log-format", "json", "--listen"]
    first = project.start([*command, "127.0.0.1:0"])
    first.get("/")
    said = token.read_text()
    assert (len(said) > 40, token.stat().st_mode & 0o777) == (True, 0o600)
    assert project.start([*command, first.address.removeprefix("http://")]).wait() == 3
    assert token.read_text() == said
    assert [each.name for each in token.parent.iterdir() if each.name.startswith("channel")] == ["channel.token"]


def test_a_token_that_cannot_be_written_ends_the_start_and_a_link_is_not_followed(project: Project) -> None:
    project.write("users.py", OPEN)
    project.write("precious", "precious")
    token = project.folder / ".pywatt" / "channel.token"
    token.parent.mkdir()
    token.symlink_to("../precious")
    served(project, "users.py")
    assert (project.folder / "precious").read_text() == "precious"
    token.unlink()
    token.mkdir()
    host = project.start([sys.executable, "users.py", "--listen", "127.0.0.1:0"])
    assert host.wait() == 4
    assert "channel.token cannot be written: is a directory" in "\n".join(host.lines)


def test_the_ipc_channel_makes_its_folder(project: Project) -> None:
    project.write(
        "users.py", MODULE.replace("metrics=True", "enable_ipc=True, manifest={'server': {'control': 'off'}}")
    )
    served(project, "users.py")
    assert (project.folder / ".pywatt").stat().st_mode & 0o777 == 0o700


def test_a_manifest_argument_that_is_a_file_is_run_and_must_name_the_function(project: Project) -> None:
    project.write("users.py", MODULE.replace("metrics=True, ", 'manifest="pywatt.yaml", '))
    project.manifest(app="users:create_app", endpoints=[{"path": "/"}], config={"greeting": "hello"}, metrics="/m")
    host = project.start([sys.executable, "users.py", "--log-format", "json"])
    assert host.get("/m").status == 200
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    project.manifest(app="users:create_app", config={"greeting": "hi"})
    done = project.cli_process("run", "users.py")
    assert done.returncode == 3
    assert "config.greeting differs" in done.stderr
    project.manifest(app="other:app")
    done = project.cli_process("run", "users.py")
    assert done.returncode == 2
    assert "names other:app as the app" in done.stderr


def test_a_manifest_that_differs_from_the_decorator_does_not_start(project: Project) -> None:
    project.write("users.py", MODULE)
    project.manifest(app="users:create_app", endpoints=[{"path": "/"}], config={"greeting": "hello"})
    done = project.cli("validate")
    assert done.returncode == 2
    assert "metrics.enabled is true in the decorator and false in the manifest" in done.stdout
    done = project.cli_process("run")
    assert done.returncode == 3
    assert "the manifest wins: leave it out of the decorator, or write the same value" in done.stderr


def test_what_a_script_prints_while_it_is_imported_stays_out_of_the_protocol(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write("users.py", MODULE)
    module = Orchestrated(tmp_path, "users.py")
    try:
        announced = module.hear("announce")
        assert {"path": "/", "methods": ["GET"]} in announced["endpoints"]
        module.say(op="shutdown")
        assert module.wait() == 0
        assert "imported as users" in "\n".join(module.lines)
    finally:
        module.end()


def test_other_servers_serve_a_decorated_function(project: Project) -> None:
    project.write("users.py", OPEN)
    project.write(
        "use.py",
        """
        import asyncio, os
        os.environ["PYWATT_MANIFEST"] = "users.py"
        from pywatt_host.asgi import app

        async def main():
            messages = asyncio.Queue()
            sent = []
            async def send(message): sent.append(message["type"])
            messages.put_nowait({"type": "lifespan.startup"})
            messages.put_nowait({"type": "lifespan.shutdown"})
            await app({"type": "lifespan"}, messages.get, send)
            print(sent)

        asyncio.run(main())
        """,
    )
    host = project.start([sys.executable, "use.py"])
    assert host.wait() == 0
    assert b"['lifespan.startup.complete', 'lifespan.shutdown.complete']" in host.stdout
    assert (project.folder / ".pywatt" / "channel.token").exists()


def test_at_a_prompt_decorating_only_decorates(project: Project) -> None:
    host = project.start([sys.executable, "-c", MODULE + "\nprint(type(create_app).__name__)"])
    assert host.wait() == 0
    assert host.stdout.endswith(b"DecoratedModule\n")


def test_the_sdk_is_the_same_under_another_name() -> None:
    import pywatt_sdk

    import pywatt_host

    assert pywatt_sdk.pywatt_module is pywatt_host.pywatt_module
    assert all(getattr(pywatt_sdk, name) is getattr(pywatt_host, name) for name in pywatt_host.__all__)
    assert vars(pywatt_sdk)["__all__"] == pywatt_host.__all__
    assert isinstance(named, DecoratedModule)
