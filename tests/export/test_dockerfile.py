"""Dockerfile: its instructions hold together, it installs what the project names, and no layer has a secret."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.export import Exported, ExportOptions, Facts, compose, dockerfile, read
from pywatt_host.export.dockerfile import FILE, IGNORE_FILE
from pywatt_host.manifest import Source
from tests.export.modules import COMMAND, ENVIRON, MANIFESTS, facts

INSTRUCTIONS = {
    "FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD",
}  # fmt: skip


def made(found: Facts) -> Exported:
    return dockerfile(found, ExportOptions())


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions, as a builder reads them: comments are left out, lines with a backslash are joined."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def variables(text: str) -> dict[str, str]:
    (line,) = [rest for word, rest in instructions(text) if word == "ENV"]
    return dict(each.split("=", 1) for each in shlex.split(line))


def in_folder(folder: Path, **keys: Any) -> Facts:
    text = json.dumps({"app": "main:app"} | keys)
    return read(Source.of_text(text, directory=folder), profile=None, environ={}, command=COMMAND)[0]


@pytest.mark.parametrize("name", MANIFESTS)
def test_it_has_two_stages_and_ends_with_the_host_as_nobody(name: str) -> None:
    text = made(facts(name)).files[FILE]
    found = instructions(text)
    assert {word for word, _ in found} <= INSTRUCTIONS
    words = [word for word, _ in found]
    assert words.count("FROM") == 2
    assert all(":" in rest and "latest" not in rest for word, rest in found if word == "FROM")
    last = dict(found)
    assert last["USER"] == "65534:65534"
    assert json.loads(last["CMD"]) == ["pywatt-host", "run"]
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert words.index("USER") > words.index("COPY")
    for value in ENVIRON.values():
        assert value not in text or len(value) < 4


@pytest.mark.parametrize("name", MANIFESTS)
def test_it_says_what_compose_says(name: str) -> None:
    import yaml

    found = facts(name)
    text = made(found).files[FILE]
    service = yaml.safe_load(compose(found, ExportOptions()).files["compose.yaml"])["services"][found.name]
    environment = {key: str(value).replace("$$", "$") for key, value in service["environment"].items()}
    own = variables(text)
    same = {key: value for key, value in environment.items() if key not in found.variables and "NATS" not in key}
    assert {key: own[key] for key in same} == same
    check = dict(instructions(text))["HEALTHCHECK"].partition(" CMD ")[2]
    assert ["CMD", *json.loads(check)] == [each.replace("$$", "$") for each in service["healthcheck"]["test"]]
    ports = {str(each["target"]) for each in service["ports"]}
    assert ports <= set(dict(instructions(text))["EXPOSE"].split())


@pytest.mark.parametrize(
    ("files", "expected", "host"),
    [
        ({"requirements.txt": "flask\n"}, "pip install --no-cache-dir -r requirements.txt", True),
        ({"requirements.txt": "pywatt-host[redis]==1\n"}, "pip install --no-cache-dir -r requirements.txt", False),
        ({"pyproject.toml": '[project]\nname = "x"\ndependencies = ["flask"]\n'}, "COPY pyproject.toml ./", True),
        ({"pyproject.toml": '[project]\ndependencies = ["pywatt_host"]\n'}, "tomllib.load", False),
        ({"pyproject.toml": '[project]\ndynamic = ["dependencies"]\n'}, "pip install --no-cache-dir .", True),
        ({"pyproject.toml": "[project]\n", "uv.lock": 'name = "pywatt-host"\n'}, "uv sync --frozen --no-dev", False),
        ({"pyproject.toml": "[tool.x]\n", "uv.lock": ""}, "COPY --from=ghcr.io/astral-sh/uv:", True),
        ({"pyproject.toml": "]["}, "pip install --no-cache-dir pywatt-host==", True),
    ],
)
def test_it_installs_what_the_project_names(files: dict[str, str], expected: str, host: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    text = made(in_folder(tmp_path)).files[FILE]
    assert expected in text
    assert (re.search(r"pip install \S+ '?pywatt-host", text) is not None) is host


def test_the_dependencies_are_read_where_the_image_is_built(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["flask>=3", "httpx"]\n')
    text = made(in_folder(tmp_path)).files[FILE]
    code = re.search(r'python -c "(.+?)" >', text)
    assert code is not None
    command = f'"{sys.executable}" -c "{code[1]}"'
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "flask>=3\nhttpx\n"


def test_the_extras_are_those_that_the_manifest_needs(tmp_path: Path) -> None:
    stores = {"databases": {"default": "postgresql://db/x"}, "caches": {"default": "redis://cache/0"}}
    text = made(in_folder(tmp_path, **stores)).files[FILE]
    assert "'pywatt-host[postgresql,redis]==" in text


def test_secrets_and_data_stay_out_of_the_image(tmp_path: Path) -> None:
    found = made(
        in_folder(
            tmp_path,
            secrets={"sources": [{"dotenv": "prod.env"}, {"file": "values.yaml"}], "keys": ["TOKEN"]},
            server={"tls": {"cert": "tls/a.crt", "key": "tls/a.k"}},
            databases={"default": "sqlite:///app.db"},
        )
    )
    ignored = found.beside[IGNORE_FILE].splitlines()
    assert {"prod.env", "values.yaml", "tls/a.crt", "tls/a.k", "app.db*", "**/.git"} <= set(ignored)
    nested = {"**/.env", "**/.env.*", "**/secrets", "**/id_rsa*", "**/*.p12", "**/.netrc", "**/.pypirc"}
    assert nested <= set(ignored)
    assert not any("!" in note for note in found.notes)
    assert any("has to leave out secrets" in note for note in found.notes)
    assert any("mount the files of server.tls" in note for note in found.notes)


def test_what_the_manifest_names_outside_of_its_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "module").mkdir()
    (tmp_path / "config.json").write_text("{}")
    app = {"import_path": "main:app", "working_dir": "../src"}
    found = made(in_folder(tmp_path / "module", app=app, config_schema="../config.json"))
    assert any("app.working_dir: ../src is outside" in note for note in found.notes)
    assert any("config_schema: ../config.json is outside" in note for note in found.notes)


def test_what_the_manifest_names_stays_in_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "www" / "secrets").mkdir(parents=True)
    ignored = made(in_folder(tmp_path, mounts=[{"route_prefix": "/s", "directory": "www/secrets"}])).beside[IGNORE_FILE]
    assert "!www/secrets" in ignored.splitlines()


@pytest.mark.parametrize(
    ("text", "copied", "note"),
    [
        ("-r req/base.txt\n", ["requirements.txt ./", "req/base.txt req/more.txt req/"], ""),
        ("flask\n--constraint=req/more.txt  # c\n", ["requirements.txt ./", "req/more.txt req/"], ""),
        ("-e .\n", [". ."], ""),
        ("./lib[all] ; python_version > '3'\n", [". ."], ""),
        ("lib @ file:./lib\n", [". ."], ""),
        ("--find-links wheels\nflask\n", [". ."], ""),
        ("wheels/a.whl\n", [". ."], ""),
        ("lib @ git+https://a.example/lib\n-i https://a.example/simple\n", ["requirements.txt ./"], ""),
        ("-r ../base.txt\n", ["requirements.txt ./"], "requirements.txt:1 names ../base.txt, which is outside"),
        ("flask\n-r none.txt\n", ["requirements.txt ./"], "requirements.txt:2 names none.txt, which does not exist"),
        ("-e ../lib\n", [". ."], "requirements.txt:1 names ../lib, which is outside"),
    ],
)
def test_what_requirements_name_is_copied(text: str, copied: list[str], note: str, tmp_path: Path) -> None:
    (tmp_path / "req").mkdir()
    (tmp_path / "req" / "base.txt").write_text("-r more.txt\npywatt-host==1\n")
    (tmp_path / "req" / "more.txt").write_text("flask\n-r base.txt\n" if "-r req" in text else "flask\n")
    (tmp_path / "requirements.txt").write_text(text)
    found = made(in_folder(tmp_path))
    build = instructions(found.files[FILE].split("\nFROM ")[1])
    assert [rest for word, rest in build if word == "COPY"] == copied
    # What is installed in place has to be where the image has it.
    assert dict(build)["WORKDIR"] == ("/srv/app" if copied == [". ."] else "/src")
    assert ("pywatt-host==" in found.files[FILE]) is ("-r req" not in text)
    assert any(note in each for each in found.notes)


def test_a_lock_file_with_packages_of_the_folder_needs_the_folder(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "uv.lock").write_text('[[package]]\nname = "lib"\nsource = { editable = "lib" }\n')
    assert (
        "WORKDIR /srv/app\nCOPY --from=ghcr.io/astral-sh/uv:0.9 /uv /bin/uv\nCOPY . ."
        in made(in_folder(tmp_path)).files[FILE]
    )


def test_addresses_that_change_are_told(tmp_path: Path) -> None:
    server = {"listen": "unix:/run/x.sock", "admin": {"listen": "127.0.0.1:9090"}}
    notes = made(in_folder(tmp_path, server=server)).notes
    assert any("server.listen: the image has :8080 in the place of unix:/run/x.sock" in note for note in notes)
    assert any("server.admin: the image has :9090 in the place of 127.0.0.1:9090" in note for note in notes)
    server = {"listen": ":8000", "admin": {"listen": ":9090"}}
    assert not any("in the place of" in note for note in made(in_folder(tmp_path, server=server)).notes)
