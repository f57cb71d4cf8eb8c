"""Which changes start the host again. Pure: no file is touched but where folders are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from pywatt_host.dev.changes import WatchedFiles, describe, watched_files
from pywatt_host.manifest import Source, load

HOME = Path("/project")
WATCHED = WatchedFiles(
    folders=(HOME, Path("/elsewhere/src")),
    files=frozenset((HOME / "pywatt.yaml", HOME / ".env", Path("/etc/module/vars"))),
    static=(HOME / "public",),
    ignored=("uploads/*", "*.csv"),
)


@pytest.mark.parametrize(
    "path",
    [
        "main.py", "users/api.py", "pywatt.yaml", ".env", ".env.local", "settings.toml", "schema.sql", "data.json",
        "templates/tags.py", "static/build.py", "/elsewhere/src/lib.py", "/etc/module/vars", "users",
    ],
)  # fmt: skip
def test_code_settings_and_the_manifest_start_it_again(path: str) -> None:
    assert WATCHED.restarts(HOME / path)


@pytest.mark.parametrize(
    "path",
    [
        ".git/index", ".git/hooks/pre.py", "users/__pycache__/api.cpython-311.pyc", "__pycache__", ".venv/lib/x.py",
        "venv/lib/x.py", "node_modules/a/index.py", ".pywatt/token", "logs/app.txt", "app.log", "app.log.1", "dev.db",
        "dev.db-journal", "a.sqlite3", "a.sqlite3-wal", "run.sock", ".main.py.swp", "main.py~", "4913", ".coverage",
        ".DS_Store", "README.md", "/other/main.py", "/etc/module/others", "uploads/a.json", "deep/table.csv", "",
    ],
)  # fmt: skip
def test_what_programs_and_editors_write_beside_does_not(path: str) -> None:
    assert not WATCHED.restarts(HOME / path)


@pytest.mark.parametrize(
    "path", ["static/site.css", "site.js", "logo.svg", "public/page.html", "public/data.json", "users/static/any.txt"]
)
def test_static_files_never_do(path: str) -> None:
    assert not WATCHED.restarts(HOME / path)


@pytest.mark.parametrize("path", ["templates/page.html", "templates/mail.txt", "page.jinja2"])
def test_templates_do_where_the_framework_keeps_them_in_memory(path: str) -> None:
    kept = WatchedFiles(WATCHED.folders, static=WATCHED.static, templates=True)
    assert kept.restarts(HOME / path)
    assert not WATCHED.restarts(HOME / path)
    assert not kept.restarts(HOME / "public" / path)


def test_a_project_may_lie_below_a_folder_that_would_not_count() -> None:
    hidden = WatchedFiles((Path("/home/me/.work/node_modules/x"),))
    assert hidden.restarts(Path("/home/me/.work/node_modules/x/main.py"))


def test_a_manifest_is_watched_with_its_folder_its_working_directories_and_its_dotenv_file(tmp_path: Path) -> None:
    for name in ("src", "legacy", "site"):
        (tmp_path / name).mkdir()
    (tmp_path / "deploy").mkdir()
    path = tmp_path / "deploy" / "pywatt.yaml"
    path.write_text(
        "app: {import_path: 'main:app', working_dir: ../src}\n"
        "mounts:\n"
        "- {route_prefix: /old, import_path: 'old:app', working_dir: ../legacy}\n"
        "- {route_prefix: /site, directory: ../site}\n"
    )
    manifest = load(Source.file(path), environ={}).manifest
    home = tmp_path.resolve()
    watched = watched_files(manifest, env_file=home / "deploy" / ".env")
    assert watched.folders == (home / "deploy", home / "src", home / "legacy")
    assert watched.static == (home / "site",)
    assert watched.files == {home / "deploy" / "pywatt.yaml", home / "deploy" / ".env"}
    assert set(watched.roots()) == {home / "deploy", home / "src", home / "legacy"}
    assert watched.restarts(home / "src" / "main.py")


def test_nothing_is_watched_twice_and_what_is_not_there_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "file").touch()
    watched = WatchedFiles((tmp_path, tmp_path / "src", tmp_path / "missing"), frozenset((tmp_path / "file",)))
    assert watched.roots() == (tmp_path,)


def test_the_line_names_python_first_and_counts_the_rest() -> None:
    paths = [HOME / "a.toml", HOME / "users" / "api.py", Path("/elsewhere/b.py")]
    assert describe(paths[:1], HOME) == "a.toml"
    assert describe(paths[:2], HOME) == "users/api.py and 1 more"
    assert describe(paths[2:], HOME) == "/elsewhere/b.py"
