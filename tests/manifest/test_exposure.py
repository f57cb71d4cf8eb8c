"""`validate` warns about what a manifest opens to more clients than it should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values.addresses import everybody
from tests.hosting import hosted, run
from tests.processes import Project

SECRET, SOURCE = "served-secret", "served-source"


def warnings(folder: Path, **keys: Any) -> list[str]:
    """The codes of the warnings of a manifest in a folder, without those about other things."""
    (folder / "pywatt.yaml").write_text(json.dumps(keys))
    found = load(Source.file(folder), environ={}).warnings
    return [problem.code for problem in found]


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    for name in ("public/sub", "secrets", "src/users/static", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("main.py", "src/users/__init__.py", "src/users/api.py", "public/app.py", "public/page.html"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("mount", "source", "expected"),
    [
        ({"directory": "public"}, {"file": "secrets.yaml"}, []),
        ({"directory": "public"}, {"file": "public/secrets.yaml"}, [SECRET]),
        ({"directory": "public"}, {"file": "public/sub/secrets.yaml"}, [SECRET]),
        ({"directory": "public"}, {"file": "public/../secrets.yaml"}, []),
        ({"directory": "public/sub"}, {"file": "public/secrets.yaml"}, []),
        ({"directory": "public"}, {"file": "public-too/secrets.yaml"}, []),
        ({"directory": "public"}, {"dotenv": "public/.env"}, []),
        ({"directory": "public", "hidden": True}, {"dotenv": "public/.env"}, [SECRET]),
        ({"directory": "public"}, {"dotenv": "public/prod.env"}, [SECRET]),
        ({"directory": "secrets"}, {"directory": "secrets"}, [SECRET]),
        ({"directory": "public"}, {"directory": "public/sub"}, [SECRET]),
        ({"directory": "public/sub"}, {"directory": "public"}, []),
    ],
)
def test_a_folder_with_secrets_is_a_warning(
    project_folder: Path, mount: dict[str, Any], source: dict[str, str], expected: list[str]
) -> None:
    mounts = [{"route_prefix": "/files", **mount}]
    secrets = {"sources": [source], "keys": ["API_KEY"]}
    assert warnings(project_folder, mounts=mounts, secrets=secrets) == expected


def test_links_are_followed_as_the_host_follows_them(project_folder: Path) -> None:
    mounts = [{"route_prefix": "/files", "directory": "public"}]
    (project_folder / "public" / "out.yaml").symlink_to(project_folder / "secrets.yaml")
    (project_folder / "in.yaml").symlink_to(project_folder / "public" / "in.yaml")
    (project_folder / "public" / "..data").mkdir()
    (project_folder / "public" / "key.yaml").symlink_to("..data/key.yaml")
    for name, expected in (("public/out.yaml", []), ("in.yaml", [SECRET]), ("public/key.yaml", [SECRET])):
        secrets = {"sources": [{"file": name}], "keys": ["API_KEY"]}
        assert warnings(project_folder, mounts=mounts, secrets=secrets) == expected, name


@pytest.mark.parametrize(
    ("directory", "app", "expected"),
    [
        (".", "main:app", [SOURCE]),
        ("public", "main:app", []),
        ("public", {"import_path": "app:app", "working_dir": "public"}, [SOURCE]),
        ("src/users", {"import_path": "users.api:app", "working_dir": "src"}, [SOURCE]),
        ("src/users/static", {"import_path": "users.api:app", "working_dir": "src"}, []),
        ("src", {"import_path": "json:loads", "working_dir": "src"}, [SOURCE]),
    ],
)
def test_a_folder_with_the_source_is_one_warning(
    project_folder: Path, directory: str, app: Any, expected: list[str]
) -> None:
    mounts = [{"route_prefix": "/files", "directory": directory}]
    assert warnings(project_folder, app=app, mounts=mounts) == expected


def test_a_folder_with_the_manifest_is_a_warning(project_folder: Path) -> None:
    mounts = [{"route_prefix": "/", "directory": "."}]
    assert warnings(project_folder, mounts=mounts) == [SOURCE]
    mounts[0]["hidden"] = True  # type: ignore[assignment]
    assert warnings(project_folder, mounts=mounts) == [SECRET, SOURCE]  # .pywatt


def test_a_value_from_a_variable_is_not_shown(project_folder: Path) -> None:
    text = "mounts: [{route_prefix: /a, directory: public}]\nsecrets: {sources: [{file: '${S}'}], keys: [K]}"
    source = Source.of_text(text, directory=project_folder)
    (problem,) = load(source, environ={"S": "public/hunter2.yaml"}).warnings
    assert "hunter2" not in str(problem)
    assert "secrets.sources[0].file" in str(problem)


def test_with_strict_the_warnings_fail(project: Project) -> None:
    (project.folder / "public").mkdir()
    project.write("main.py", "async def app(scope, receive, send): ...")
    for faulty, code in (
        ({"mounts": [{"route_prefix": "/files", "directory": "."}]}, SOURCE),
        ({"server": {"cors": {"allow_origins": ["*"], "allow_credentials": True}}}, "cors-credentials"),
        ({"server": {"trusted_proxies": ["0.0.0.0/0"]}}, "trusts-everybody"),
    ):
        project.manifest(**faulty)
        done = project.cli("validate", "--no-import", "--json")
        assert done.returncode == 0
        assert [(each["code"], each["severity"]) for each in json.loads(done.stdout)] == [(code, "warning")]
        assert project.cli("validate", "--no-import", "--strict").returncode == 2


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["0.0.0.0/0"], True),
        (["::/0"], True),
        (["*"], True),
        (["0.0.0.0/1", "128.0.0.0/1"], True),
        (["::ffff:0:0/96"], True),
        (["10.0.0.0/8", "unix", "::1", "not an address"], False),
        (["0.0.0.0/1", "128.0.0.0/2"], False),
        ([], False),
    ],
)
def test_everybody_is_every_address_of_a_family(entries: list[str], expected: bool) -> None:
    assert everybody(entries) is expected


@pytest.mark.parametrize("value", ["*", "10.0.0.1, 0.0.0.0/0", "::/0", "128.0.0.0/1"])
def test_the_start_warns_about_the_variable(tmp_path: Path, value: str) -> None:
    (tmp_path / "public").mkdir()
    manifest = {
        "mounts": [{"route_prefix": "/", "directory": "public"}],
        "server": {"trusted_proxies": ["0.0.0.0/1"]},
    }

    async def main() -> None:
        async with hosted(manifest, directory=tmp_path, environ={"FORWARDED_ALLOW_IPS": value}) as host:
            (line,) = host.logs("pywatt.edge")
            assert line["level"] == "warning"
            assert line["message"].startswith("FORWARDED_ALLOW_IPS makes every client a trusted proxy")
        async with hosted(manifest, directory=tmp_path, environ={"FORWARDED_ALLOW_IPS": "10.0.0.1"}) as host:
            assert host.logs("pywatt.edge") == []

    run(main)
