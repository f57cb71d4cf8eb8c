"""`validate` reports the faults of a manifest and those of its applications in one run, and nothing that follows from
another fault."""

from __future__ import annotations

import json

import pytest

from tests.processes import Project

FACTORY = """
    def create_app(page_size: int, name: str = "x"):
        raise SystemExit("the factory was called")
"""
DJANGO = """
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application

    settings.configure(ROOT_URLCONF="urls", SECRET_KEY="x" * 50, ALLOWED_HOSTS=["*"])
    application = get_wsgi_application()
"""


def codes(project: Project, *arguments: str) -> list[tuple[str, str]]:
    done = project.cli("validate", "--format", "json", *arguments)
    assert "Traceback" not in done.stderr
    return [(each["code"], each["path"]) for each in json.loads(done.stdout)]


def test_types_references_folders_and_imports_are_reported_together(project: Project) -> None:
    project.write("main.py", "app = 1\n")
    project.write("other.py", "raise RuntimeError('no')\n")
    project.write(
        "pywatt.yaml",
        """
        app: main:app
        mounts:
          - {route_prefix: /a, import_path: other:app}
          - {route_prefix: /b, directory: not-there}
          - {route_prefix: /c}
        server: {limits: {body: 10mb}}
        endpoints: [{path: /x, auth: jtw}, {path: /x, auth: none}, {path: /x, auth: none}]
        """,
    )
    assert sorted(codes(project)) == [
        ("app-module-raised", "mounts[0].import_path"),
        ("app-not-an-app", "app"),
        ("missing", "mounts[2].import_path"),
        ("no-folder", "mounts[1].directory"),
        ("size", "server.limits.body"),
        ("tie", "endpoints[1].path"),
        ("tie", "endpoints[2].path"),
        ("unknown-scheme", "endpoints[0].auth"),
    ]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("app: {import_path: main:app, working_dir: scr}", ("no-folder", "app.working_dir")),
        ("app: {import_path: main:app, env: {KEY: '${NOT_SET_HERE}'}}", ("variable-unset", "app.env.KEY")),
        ("app: {import_path: main.py}", ("import-path", "app.import_path")),
        ("ap: main:app", ("unknown-key", "ap")),
    ],
)
def test_an_application_that_cannot_be_imported_for_a_reported_reason_is_not_reported_again(
    project: Project, manifest: str, expected: tuple[str, str]
) -> None:
    project.write("main.py", "import os\nos.environ['KEY']\n")
    project.write("pywatt.yaml", manifest + "\n")
    assert codes(project) == [expected]


def test_each_argument_of_a_factory_that_does_not_fit_is_shown_at_its_place(project: Project) -> None:
    project.write("main.py", FACTORY)
    project.write("pywatt.yaml", "app:\n  import_path: main:create_app\n  args:\n    page_size: many\n    nam: 5\n")
    done = project.cli("validate")
    assert done.returncode == 2
    lines = [line for line in done.stdout.splitlines() if line.startswith("pywatt.yaml")]
    assert [line.partition(": this ")[0] for line in lines] == [
        "pywatt.yaml:4:16: app.args.page_size",
        "pywatt.yaml:5:10: app.args.nam",
    ]
    assert lines[1].endswith("this is not a parameter of the factory (did you mean name?) [app-factory-arguments]")


def test_an_argument_that_the_factory_requires_is_missing_below_args(project: Project) -> None:
    project.write("main.py", FACTORY)
    project.write("pywatt.yaml", "app: {import_path: main:create_app, args: {name: y}}\n")
    assert codes(project) == [("app-factory-arguments", "app.args.page_size")]


def test_a_url_configuration_of_django_that_does_not_import_is_a_fault_with_its_traceback(project: Project) -> None:
    project.write("main.py", DJANGO)
    project.write("urls.py", "urlpatterns = [misspelt]\n")
    project.write("pywatt.yaml", "app: main:application\n")
    done = project.cli("validate")
    assert done.returncode == 2
    assert "app: importing the URL configuration urls raised NameError" in done.stdout
    assert done.stdout.splitlines()[0].endswith("[app-module-raised]")
    traceback = done.stdout[done.stdout.index("Traceback") :].splitlines()
    assert "urls.py" in traceback[1]  # it begins at the user's own frame


def test_a_url_configuration_of_django_that_does_not_exist_is_a_fault(project: Project) -> None:
    project.write("main.py", DJANGO)
    project.write("pywatt.yaml", "app: main:application\n")
    assert codes(project) == [("app-no-module", "app")]
