"""`import`: the manifest goes to standard output, the list to standard error, and nothing is overwritten."""

from __future__ import annotations

import json

from tests.processes import Project

CONFIG = 'wsgi_app = "shop:application"\nbind = ":9000"\nuser = "www-data"\nraw_env = ["API_TOKEN=abcdefgh"]\n'


def test_the_manifest_goes_to_standard_output_and_the_list_to_standard_error(project: Project) -> None:
    project.write("gunicorn.conf.py", CONFIG)
    project.write("shop.py", "def application(environ, start_response): ...\n")
    done = project.cli("import", "gunicorn", "gunicorn.conf.py")
    assert done.returncode == 0
    assert "import_path: shop:application" in done.stdout
    assert "gunicorn.conf.py:3: user: the host does not change its user" in done.stderr
    assert "abcdefgh" not in done.stdout + done.stderr
    project.write("pywatt.yaml", done.stdout)
    assert project.cli("validate", "--no-import", env={"API_TOKEN": "x" * 20}).returncode == 0


def test_files_are_written_and_not_overwritten_unasked(project: Project) -> None:
    project.write("gunicorn.conf.py", CONFIG)
    done = project.cli("import", "gunicorn", "gunicorn.conf.py", "--output", "new", "--app", "other:app")
    assert (done.returncode, done.stdout) == (0, "")
    assert "wrote new/pywatt.yaml" in done.stderr
    assert "other:app" in (project.folder / "new" / "pywatt.yaml").read_text()
    again = project.cli("import", "gunicorn", "gunicorn.conf.py", "--output", "new")
    assert again.returncode == 2
    assert "no file was written: new/pywatt.yaml exists already. Use --force to overwrite." in again.stderr
    assert project.cli("import", "gunicorn", "gunicorn.conf.py", "--output", "new", "--force").returncode == 0


def test_several_files_need_a_folder(project: Project) -> None:
    project.write("Procfile", "web: gunicorn a:b\napi: uvicorn c:d\n")
    done = project.cli("import", "procfile", "Procfile")
    assert done.returncode == 2
    assert (
        "import writes several files (pywatt.yaml, api.yaml). Name a folder for them with --output DIR." in done.stderr
    )
    listed = json.loads(project.cli("import", "procfile", "Procfile", "--json").stdout)
    assert list(listed["files"]) == ["pywatt.yaml", "api.yaml"]
    assert {each["code"] for each in listed["findings"]} >= {"import-differs"}


def test_faults_are_told_on_standard_error_or_as_json(project: Project) -> None:
    project.write("unit.json", '{"listeners": \n}')
    done = project.cli("import", "unit", "unit.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: unit.json:2: ")
    done = project.cli("import", "unit", "unit.json", "--json")
    assert done.returncode == 2
    (fault,) = json.loads(done.stdout)["findings"]
    assert (fault["code"], fault["line"], fault["severity"]) == ("import-fault", 2, "error")


def test_a_command_line_of_any_form(project: Project) -> None:
    for words in (["--", "gunicorn", "-w", "2", "a:b"], ["gunicorn -w 2 a:b"], ["--", "-w", "2", "a:b"]):
        done = project.cli("import", "gunicorn", *words)
        assert (done.returncode, "workers: 2" in done.stdout) == (0, True), done.stderr
