"""`config` and `routes`: what is in effect and where it came from, and what is served."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.processes import Project

FACTORY = """
    from starlette.applications import Starlette
    from starlette.routing import Route

    def create_app():
        return Starlette(routes=[Route("/users/{id:int}", print, methods=["GET"])])

    app = Starlette(routes=[Route("/direct", print, methods=["POST"])])

    async def opaque(scope, receive, send): ...
"""


@pytest.fixture
def factory(project: Project) -> Project:
    project.write("main.py", FACTORY)
    project.write("pywatt.yaml", "app: main:create_app\n")
    return project


def test_config_is_the_effective_manifest_and_loads_as_one(project: Project) -> None:
    project.write(
        "pywatt.yaml", "app: main:app\nlogging: {level: warning}\nprofiles: {dev: {logging: {level: debug}}}\n"
    )
    done = project.cli("config")
    assert (done.returncode, done.stderr) == (0, "")
    document = yaml.safe_load(done.stdout)
    assert document["app"]["import_path"] == "main:app"
    assert document["logging"]["level"] == "warning"
    assert document["server"]["listen"] == ["127.0.0.1:8080"]
    assert json.loads(project.cli("config", "--json").stdout) == document
    assert json.loads(project.cli("config", "--json", "--profile", "dev").stdout)["logging"]["level"] == "debug"
    project.write("again.yaml", done.stdout)
    again = project.cli("config", "again.yaml")
    assert (again.returncode, again.stdout) == (0, done.stdout), again.stderr


def test_origins_say_where_each_value_came_from(project: Project) -> None:
    project.write(
        "pywatt.yaml",
        "app: main:app\nlogging:\n  level: warning\nprofiles:\n  dev:\n    server: {paths: lenient}\n",
    )
    done = project.cli(
        *("config", "--origins", "--json", "--profile", "dev", "--set", "health.path=/h"),
        env={"PYWATT__METRICS__PATH": "/m"},
    )
    origins = {each["path"]: (each["value"], each["origin"]) for each in json.loads(done.stdout)}
    assert origins["logging.level"] == ("warning", "pywatt.yaml:3:10")
    assert origins["server.paths"] == ("lenient", "profile dev (pywatt.yaml:6:21)")
    assert origins["health.path"] == ("/h", "--set")
    assert origins["metrics.path"] == ("/m", "PYWATT__METRICS__PATH")
    assert origins["server.limits.backlog"] == (2048, "default")
    text = project.cli("config", "--origins").stdout
    assert '"warning"  # pywatt.yaml:3:10' in text


def test_config_of_a_faulty_manifest_is_exit_code_2_and_nothing_on_stdout(project: Project) -> None:
    project.write("pywatt.yaml", "app: main:app\nmetric: true\n")
    done = project.cli("config")
    assert (done.returncode, done.stdout) == (2, "")
    assert 'did you mean "metrics"?' in done.stderr


def test_routes_of_a_factory_need_build(factory: Project) -> None:
    done = factory.cli("routes", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])
    assert "main:create_app is made by a factory. Use --build to call it" in done.stderr
    done = factory.cli("routes", "--build", "--json")
    assert [(row["path"], row["methods"], row["state"]) for row in json.loads(done.stdout)] == [
        ("/users/{id}", ["GET"], "served")
    ]
    assert done.stderr == ""


def test_routes_shows_drift_as_a_table_and_for_any_application(factory: Project) -> None:
    table = factory.cli("routes", "main:app")
    assert table.stdout.splitlines()[0].split() == ["METHODS", "PATH", "AUTH", "APP", "STATE", "SUMMARY"]
    assert table.stdout.splitlines()[1].split() == ["POST", "/direct", "-", "main:app", "served"]
    factory.write("listed.yaml", "app: main:app\nendpoints: [{path: /listed, summary: A list}]\n")
    rows = [line.split() for line in factory.cli("routes", "listed.yaml").stdout.splitlines()[1:]]
    assert rows == [
        ["GET", "/listed", "-", "-", "missing", "A", "list"],
        ["POST", "/direct", "-", "main:app", "undeclared"],
    ]
    assert "its routes cannot be read" in factory.cli("routes", "main:opaque").stderr


def test_routes_of_an_application_that_cannot_be_imported_is_exit_code_3(factory: Project) -> None:
    done = factory.cli("routes", "main:nothing")
    assert done.returncode == 3
    assert "has no `nothing`" in done.stderr
    assert "Traceback" not in done.stderr
