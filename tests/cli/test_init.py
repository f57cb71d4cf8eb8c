"""`init`: a module that is valid as it is written, manifests around applications that exist, and nothing by halves."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from pywatt_host import __version__
from pywatt_host.cli import cli
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.model import AutoEndpoints
from pywatt_host.scaffold import FRAMEWORKS, CannotWriteError, module_id_of, starter, write
from tests.processes import PATIENCE, Project, environment

STARTER = ["app.py", "pywatt.yaml", "test_app.py"]
ADOPTED = ["pywatt.yaml", "test_pywatt.py"]
OPEN = "# no authentication"

APPS = {
    "fastapi": """
        from fastapi import FastAPI
        app = FastAPI(openapi_url=None)

        @app.get("/notes")
        def list_notes(): ...

        @app.post("/notes")
        def write_note(): ...

        @app.delete("/notes/{id}")
        def remove_note(id: int): ...
    """,
    "starlette": """
        from starlette.applications import Starlette
        from starlette.routing import Route

        def list_notes(request): ...
        def write_note(request): ...
        def remove_note(request): ...

        app = Starlette(routes=[
            Route("/notes", list_notes, methods=["GET"]),
            Route("/notes", write_note, methods=["POST"]),
            Route("/notes/{id:int}", remove_note, methods=["DELETE"]),
        ])
    """,
    "flask": """
        from flask import Flask
        app = Flask(__name__, static_folder=None)

        @app.get("/notes")
        def list_notes(): ...

        @app.post("/notes")
        def write_note(): ...

        @app.delete("/notes/<int:id>")
        def remove_note(id): ...
    """,
    "django": """
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.urls import path
        from django.views import View

        settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="test")

        class Notes(View):
            def get(self, request): ...
            def post(self, request): ...

        class Note(View):
            def delete(self, request, id): ...

        urlpatterns = [path("notes", Notes.as_view()), path("notes/<int:id>", Note.as_view())]
        app = get_wsgi_application()
    """,
}
FACTORY = """
    from starlette.applications import Starlette
    from starlette.routing import Route

    def create_app():
        open("called", "w").close()
        return Starlette(routes=[Route("/made", print, methods=["GET"])])

    def needy(state, size: int): ...

    async def opaque(scope, receive, send): ...
"""


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(project.folder)
    for name in os.environ:
        if name.startswith("PYWATT_"):
            monkeypatch.delenv(name)
    return project


def said(*arguments: str) -> tuple[int, str]:
    """Exit code and all output of `init`, in this process."""
    result = CliRunner().invoke(cli, ["init", *arguments], prog_name="pywatt-host", standalone_mode=False)
    error = result.exception
    if isinstance(error, click.ClickException):
        return 2, result.output + error.format_message()  # as `main` makes of it
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code, result.output
    assert error is None, error
    return int(result.return_value or 0), result.output


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name != "__pycache__")  # of the imported application


def endpoints(folder: Path) -> list[tuple[str, tuple[str, ...], str | None]]:
    manifest = load(Source.file(folder), environ={}).manifest
    assert not isinstance(manifest.endpoints, AutoEndpoints)
    return [(each.path, each.methods, each.summary) for each in manifest.endpoints]


def is_auto(folder: Path) -> bool:
    return isinstance(load(Source.file(folder), environ={}).manifest.endpoints, AutoEndpoints)


# A new module ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_new_module_is_valid_python_and_a_valid_manifest_with_its_schema(here: Project, framework: str) -> None:
    code, output = said("users", "--framework", framework)
    folder = here.folder / "users"
    assert (code, names(folder)) == (0, STARTER)
    for name in ("app.py", "test_app.py"):
        ast.parse((folder / name).read_text())
    assert framework in (folder / "app.py").read_text().lower()
    loaded = load(Source.file(folder), environ={})
    assert (loaded.warnings, loaded.manifest.module_id) == ((), "users")
    assert loaded.manifest.config == {"greeting": "Hello"}
    first = (folder / "pywatt.yaml").read_text().splitlines()[0]
    address = f"https://schemas.pywatt.dev/pywatt-host/{__version__}/pywatt.schema.json"
    assert first == f"# yaml-language-server: $schema={address}"
    assert json.loads(CliRunner().invoke(cli, ["schema"]).output)["$id"] == address
    assert output.splitlines()[:3] == [f"wrote users/{name}" for name in starter(framework, "users")]
    assert f"the framework is {framework}\n" in output
    assert "  pywatt-host run users\n" in output
    assert "  pytest users" in output


@pytest.mark.parametrize("arguments", [["--framework", "starlette"], ["--from", "shop:app"]])
def test_a_copy_of_the_schema_is_written_if_asked_for(here: Project, arguments: list[str]) -> None:
    here.write("shop.py", "async def app(scope, receive, send): ...")
    code, _ = said("users", "--schema", *arguments)
    folder = here.folder / "users"
    assert code == 0
    first = (folder / "pywatt.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=pywatt.schema.json"
    assert (folder / "pywatt.schema.json").read_text() == CliRunner().invoke(cli, ["schema"]).output


def test_without_a_folder_it_is_this_one_whose_name_is_the_module_s(here: Project) -> None:
    code, output = said("--framework", "starlette")
    assert (code, names(here.folder)) == (0, STARTER)
    assert load(Source.file(here.folder), environ={}).manifest.module_id == module_id_of(here.folder)
    assert "  pywatt-host run\n" in output


@pytest.mark.parametrize(("there", "chosen"), [({"fastapi"}, "fastapi"), (set(), "starlette")])
def test_the_framework_is_the_one_that_is_installed(
    here: Project, monkeypatch: pytest.MonkeyPatch, there: set[str], chosen: str
) -> None:
    monkeypatch.setattr("pywatt_host.cli.init.installed", lambda name: name in {"starlette", "pytest"} | there)
    code, output = said("x")
    assert code == 0
    assert f"the framework is {chosen}; use --framework to choose another one\n" in output
    assert chosen in (here.folder / "x" / "app.py").read_text()


def test_what_is_not_installed_is_said_and_written_all_the_same(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pywatt_host.cli.init.installed", lambda name: False)
    code, output = said("x", "--framework", "django")
    assert (code, names(here.folder / "x")) == (0, STARTER)
    assert "django is not installed. Install it with: pip install django\n" in output
    assert "pytest x    # pip install pytest\n" in output


@pytest.mark.parametrize(
    ("name", "module_id"),
    [
        ("users", "users"),
        ("My shop!", "My-shop"),
        ("café", "cafe"),
        (".hidden", "hidden"),
        ("日本", "module"),
        ("a" * 80, "a" * 63),
        ("", "module"),
        ("true", "true"),
        ("1.5", "1.5"),
    ],
)
def test_the_module_s_name_is_the_folder_s_made_to_fit(name: str, module_id: str) -> None:
    made = module_id_of(Path("/srv", name) if name else Path("/"))
    assert made == module_id
    text = starter("starlette", made)["pywatt.yaml"]
    assert load(Source.of_text(text), environ={}).manifest.module_id == module_id


# An application that exists -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", APPS)
def test_the_routes_of_an_application_are_the_endpoints_each_said_to_be_open(here: Project, framework: str) -> None:
    pytest.importorskip(framework)
    here.write("main.py", APPS[framework])
    code, output = said("--from", "main:app")
    assert (code, "main:app: wrote 2 endpoints without authentication" in output) == (0, True), output
    assert names(here.folder) == sorted(["main.py", *ADOPTED])
    views = framework == "django"
    options = ("OPTIONS",) if framework in ("django", "flask") else ()  # which these answer by themselves
    redirects = framework in ("fastapi", "starlette")
    assert endpoints(here.folder) == [
        ("/notes", ("GET", "POST", *options), "Notes" if views else "List notes; Write note"),
        ("/notes/{id}", ("DELETE", *options), "Note" if views else "Remove note"),
        *([("/notes/", ("GET", "POST"), None), ("/notes/{id}/", ("DELETE",), None)] if redirects else []),
    ]
    lines = [line for line in (here.folder / "pywatt.yaml").read_text().splitlines() if line.startswith("  - ")]
    assert {line.endswith(OPEN) for line in lines} == {True}
    assert "tried out: the host let " in output
    test = (here.folder / "test_pywatt.py").read_text()
    assert _paths(test) == ["/notes"]
    done = here.cli("validate", "--strict")
    assert (done.returncode, done.stdout) == (0, "valid\n")


def _paths(test: str) -> Any:
    """The list in the generated test."""
    return next(ast.literal_eval(each.value) for each in ast.parse(test).body if isinstance(each, ast.Assign))


def test_a_factory_is_called_with_build_only(here: Project) -> None:
    here.write("main.py", FACTORY)
    code, output = said("plain", "--from", "main:create_app")
    assert code == 0
    assert "endpoints: auto, because a factory makes the application; use --build to call it" in output
    assert is_auto(here.folder / "plain")
    assert not (here.folder / "called").exists()
    code, _ = said("built", "--from", "main:create_app", "--build")
    assert (code, endpoints(here.folder / "built")) == (
        0,
        [("/made", ("GET",), "Print"), ("/made/", ("GET",), None)],
    )
    assert (here.folder / "called").exists()


def test_routes_that_cannot_be_read_are_left_to_the_application(here: Project) -> None:
    here.write("main.py", FACTORY)
    code, output = said("--from", "main:opaque")
    assert (code, is_auto(here.folder)) == (0, True)
    assert "endpoints: auto, because its routes cannot be read" in output
    assert _paths((here.folder / "test_pywatt.py").read_text()) == ["/"]


def test_an_application_without_routes_gets_no_empty_list(here: Project) -> None:
    here.write("main.py", "from starlette.applications import Starlette\napp = Starlette()\n")
    code, output = said("--from", "main:app")
    assert (code, is_auto(here.folder)) == (0, True)
    assert "because the application has no routes" in output


ODD = """
    from starlette.applications import Starlette
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    def true(request): ...

    async def ws(socket): ...

    app = Starlette(routes=[
        Route("/", true),
        Route("/users/{id}", print, methods=["GET"]),
        Route("/users/{name}", true, methods=["PUT", "PURGE"]),
        Route("/a:b,c", lambda request: None, methods=["POST"]),
        Route("/live", true),
        WebSocketRoute("/live", ws),
        Mount("/static", StaticFiles(directory=".")),
    ])
"""


def test_odd_routes_come_out_as_what_the_manifest_can_say(here: Project) -> None:
    here.write("main.py", ODD)
    code, output = said("--from", "main:app")
    assert code == 0, output
    assert endpoints(here.folder) == [
        ("/", ("GET",), "True"),
        ("/users/{id}", ("*",), "Print; True"),
        ("/a:b,c", ("POST",), None),
        ("/live", ("GET", "WEBSOCKET"), "True; Ws"),
        ("/static/{path:path}", ("GET",), None),
        ("/users/{id}/", ("*",), None),
        ("/a:b,c/", ("POST",), None),
        ("/live/", ("GET",), None),
    ]
    assert _paths((here.folder / "test_pywatt.py").read_text()) == ["/", "/live"]


def test_routes_that_no_list_can_say_are_left_to_the_application(here: Project) -> None:
    here.write("main.py", ODD.replace("/a:b,c", r"/a\x80b"))
    code, output = said("--from", "main:app")
    assert (code, is_auto(here.folder)) == (0, True)
    assert "endpoints: auto, because a list cannot express its routes" in output


def test_a_path_that_the_host_takes_is_warned_of(here: Project) -> None:
    here.write("main.py", ODD.replace("/a:b,c", "/livez"))
    code, output = said("--from", "main:app")
    assert code == 0
    assert "the host answers this path itself (health.liveness)" in output


@pytest.mark.parametrize(
    ("place", "folder", "working_dir"),
    [
        ("main.py", ".", "."),
        ("main.py", "deploy", ".."),
        ("service/main.py", "service", "."),
        ("src/main.py", ".", "src"),
        ("service/src/main.py", "service", "src"),
    ],
)
def test_the_module_is_found_in_the_folder_in_its_src_and_in_the_current_one(
    here: Project, place: str, folder: str, working_dir: str
) -> None:
    here.write(place, APPS["starlette"])
    assert said(folder, "--from", "main:app")[0] == 0
    manifest = load(Source.file(here.folder / folder), environ={}).manifest
    assert manifest.app is not None
    assert manifest.app.working_dir == working_dir
    assert here.cli("validate", "--strict", folder).returncode == 0


@pytest.mark.parametrize(
    ("import_path", "words"),
    [
        ("nowhere:app", "there is no module `nowhere`"),
        ("main:nothing", "has no `nothing`"),
        ("broken:app", "raised ZeroDivisionError"),
        ("leaves:app", "ended the process (exit code 7)"),
        ("needs:app", "`nonexistent_dependency`"),
    ],
)
def test_an_application_that_cannot_be_imported_is_exit_code_3_and_nothing_is_written(
    here: Project, import_path: str, words: str
) -> None:
    here.write("main.py", FACTORY)
    here.write("broken.py", "1 / 0\n")
    here.write("leaves.py", "import os\nos._exit(7)\n")
    here.write("needs.py", "import nonexistent_dependency\n")
    before = names(here.folder)
    code, output = said("new", "--from", import_path)
    assert code == 3
    first, *trace = output.splitlines()
    assert first.startswith(f"no file was written: {import_path}: ")
    assert words in first
    assert all(line.startswith("    ") for line in trace)
    assert [name for name in names(here.folder) if name != "__pycache__"] == before


def test_a_factory_that_wants_arguments_says_where_they_go(here: Project) -> None:
    here.write("main.py", FACTORY)
    code, output = said("--from", "main:needy", "--build")
    assert code == 3
    assert "leave --build out, and add app.args to the manifest that init writes" in output


def test_a_profile_that_is_chosen_elsewhere_does_not_matter(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYWATT_PROFILE", "prod")
    here.write("main.py", APPS["starlette"])
    assert said("--from", "main:app")[0] == 0
    monkeypatch.setenv("PYWATT__SERVER__PTHS", "strict")
    code, output = said("other", "--from", "main:app")
    assert (code, "PYWATT__SERVER__PTHS" in output) == (2, True)


# Nothing by halves ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STARTER)
def test_what_is_there_is_named_and_nothing_is_written(here: Project, name: str) -> None:
    here.write(name, "mine")
    code, output = said("--framework", "starlette")
    assert (code, names(here.folder)) == (2, [name])
    assert (here.folder / name).read_text() == "mine"
    assert output.startswith(f"no file was written: {name} exists already")
    assert ("--from app:app" in output) == (name == "app.py")


def test_a_second_time_what_cannot_help_is_not_suggested(here: Project) -> None:
    assert said("--framework", "starlette")[0] == 0
    code, output = said("--framework", "starlette")
    assert (code, "--from" in output) == (2, False)


def test_a_link_that_leads_nowhere_is_there_and_so_are_the_files_of_another_manifest(here: Project) -> None:
    here.write("main.py", APPS["starlette"])
    for name in ("pywatt.yaml", "test_pywatt.py"):
        (here.folder / name).symlink_to("nowhere")
    code, output = said("--from", "main:app")
    assert (code, output) == (2, "no file was written: pywatt.yaml, test_pywatt.py exist already")
    assert not (here.folder / "nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("file",), "file is not a folder"),
        (("--build",), "--build needs --from"),
        (("--from", "main:app", "--framework", "flask"), "--framework is for a new application"),
        (("--from", "main"), '"main" is not of the form module:attribute, such as main:app'),
        (("--framework", "rails"), "'rails' is not one of 'fastapi', 'flask', 'starlette', 'django'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_nothing_is_written(
    here: Project, arguments: tuple[str, ...], words: str
) -> None:
    here.write("file", "")
    code, output = said(*arguments)
    assert (code, words in output) == (2, True), output
    assert names(here.folder) == ["file"]


@pytest.mark.parametrize("folder", ["file/below", "new/" + "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(here: Project, folder: str) -> None:
    here.write("file", "")
    code, output = said(folder, "--framework", "starlette")
    assert (code, output.count("\n")) == (1, 1)
    assert output.startswith("no file was written: ")
    assert names(here.folder) == ["file"]


def test_a_file_that_cannot_be_written_to_its_end_leaves_nothing(project: Project) -> None:
    """A bound on the size of files, which the schema is over, stands for a full disk. What measures the coverage of
    processes could not write its own file then, and so stays away."""
    kept = {name: value for name, value in environment(project.folder).items() if not name.startswith("COV")}
    done = subprocess.run(
        [
            "sh",
            "-c",
            'ulimit -f 16 && exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "pywatt_host",
            "init",
            "--schema",
            "new/users",
        ],
        cwd=project.folder,
        env=kept,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"no file was written: {project.folder}/new/users/pywatt.schema.json: file too large\n"
    assert names(project.folder) == []


def test_files_that_appear_in_the_meantime_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Path.rename

    def rename(path: Path, target: Path) -> Path:
        (tmp_path / "second").write_text("mine")
        return first(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(CannotWriteError, match="second: another process has just created it"):
        write(tmp_path, {"first": "1", "second": "2"})
    assert names(tmp_path) == ["second"]
    assert (tmp_path / "second").read_text() == "mine"


def test_an_interrupt_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "new", {"first": "1"})
    assert names(tmp_path) == []


def test_files_are_for_everybody_that_the_umask_says(tmp_path: Path) -> None:
    write(tmp_path, {"first": "1"})
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "first").stat().st_mode == plain.stat().st_mode
