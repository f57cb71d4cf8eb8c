"""`export`: where the files go, what is refused, and that nothing is overwritten unasked."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywatt_host.cli import execute


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("PYWATT_PROFILE", "PYWATT_MANIFEST"):
        monkeypatch.delenv(name, raising=False)
    written(tmp_path)
    return tmp_path


def written(folder: Path, **keys: Any) -> None:
    profiles = {"top": {"server": {"listen": ":65534"}}, **keys.pop("profiles", {})}
    data = {"app": "main:app", "module": {"id": "users"}, "profiles": profiles, **keys}
    (folder / "pywatt.yaml").write_text(json.dumps(data))


@dataclass(frozen=True)
class Done:
    exit_code: int
    stdout: str
    stderr: str


def export(*arguments: str) -> Done:
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = execute(["export", *arguments])
    return Done(code, out.getvalue(), err.getvalue())


def test_one_file_goes_to_standard_output_and_says_how_it_was_made(folder: Path) -> None:
    for kind, how in (("kubernetes", "--replicas 2"), ("compose", "--image u:1"), ("systemd", "--directory /srv/u")):
        done = export(kind, *how.split())
        assert (done.exit_code, done.stderr) == (0, "")
        assert f"#   pywatt-host export {kind} {how}\n" in done.stdout
        assert list(folder.iterdir()) == [folder / "pywatt.yaml"]
    assert export("systemd").stdout == export("systemd").stdout


def test_several_files_need_a_folder(folder: Path) -> None:
    done = export("systemd", "--socket")
    assert done.exit_code == 2
    assert (
        "export writes several files (users.service, users.socket). Name a folder for them with --output DIR."
        in done.stderr
    )
    done = export("systemd", "--socket", "--output", "new/units")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "wrote new/units/users.socket" in done.stderr
    assert sorted(path.name for path in (folder / "new" / "units").iterdir()) == ["users.service", "users.socket"]


def test_nothing_is_overwritten_unasked_and_all_of_it_when_asked(folder: Path) -> None:
    (folder / "users.socket").write_text("mine")
    done = export("systemd", "--socket", "--output", ".")
    assert done.exit_code == 2
    assert "no file was written: users.socket exists already. Use --force to overwrite." in done.stderr
    assert (folder / "users.socket").read_text() == "mine"
    assert not (folder / "users.service").exists()
    done = export("systemd", "--socket", "--output", ".", "--force")
    assert done.exit_code == 0
    assert "ListenStream" in (folder / "users.socket").read_text()
    assert "--force" not in (folder / "users.socket").read_text()


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    (folder / "users.yaml").mkdir()
    for where in ("pywatt.yaml", "."):
        done = export("kubernetes", "--output", where, "--force")
        assert done.exit_code == 1
        assert "no file was written" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["helm"], "'helm' is not one of 'systemd', 'compose', 'kubernetes'"),
        ([], "Missing argument"),
        (["systemd", "--image", "u"], "--image applies only to compose and kubernetes"),
        (["compose", "--secret", "u"], "--secret applies only to kubernetes"),
        (["compose", "--memory", "1Gi"], "--memory applies only to kubernetes"),
        (["kubernetes", "--socket"], "--socket applies only to systemd"),
        (["kubernetes", "--directory", "/x"], "--directory applies only to systemd"),
        (["systemd", "--directory", "x"], "an absolute path"),
        (["kubernetes", "--secret", "No_Name"], "--secret: use lower-case"),
        (["kubernetes", "--cpu", "much"], "--cpu: this is not a quantity"),
        (["kubernetes", "--image", "a b"], "--image: this is not the name"),
        (["kubernetes", "--replicas", "0"], "0 is not in the range"),
        (["kubernetes", "--nats", "http://x"], "of the form nats://HOST:PORT"),
        (["kubernetes", "--nats", "nats://[x"], "of the form nats://HOST:PORT"),
        (["kubernetes", "--nats", "nats://u:password@x"], "must not contain credentials"),
        (["kubernetes", "--nats", "nats://x:4222"], "the manifest has no channels.nats"),
        (["compose", "--set", "a=b"], "No such option"),
        (["systemd", "--replicas", "3", "--profile", "top"], "the highest port is 65535"),
        (["kubernetes", "--force"], "--force needs --output"),
        (["kubernetes", "nowhere.yaml"], "the file does not exist"),
        (["kubernetes", "--profile", "nope"], "nope"),
        (["kubernetes", "--env-file", "nope"], "the env file cannot be read"),
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(folder: Path, arguments: list[str], said: str) -> None:
    done = export(*arguments)
    assert done.exit_code == 2, done
    assert said in done.stderr
    assert "password" not in done.stderr
    assert done.stdout == ""


def test_faults_of_the_manifest_are_those_of_validate(folder: Path) -> None:
    written(folder, server={"lissten": ":80"})
    done = export("compose")
    assert done.exit_code == 2
    assert "server.lissten: unknown key" in done.stderr


def test_variables_that_are_not_set_are_warnings_and_are_asked_for(folder: Path) -> None:
    written(folder, config={"region": "${A_REGION_OF_MINE}"})
    done = export("kubernetes")
    assert done.exit_code == 0
    assert "warning: config.region: the environment variable A_REGION_OF_MINE is not set" in done.stderr
    assert "--from-literal=A_REGION_OF_MINE=..." in done.stdout
    (folder / "vars").write_text("A_REGION_OF_MINE=a-value-that-stays-here\n")
    done = export("kubernetes", "--env-file", "vars")
    assert "not set" not in done.stderr
    assert "--from-literal=A_REGION_OF_MINE=..." in done.stdout
    assert "a-value-that-stays-here" not in done.stdout + done.stderr


def test_the_profile_goes_along(folder: Path) -> None:
    written(folder, profiles={"prod": {"server": {"listen": ":9000"}}})
    read = yaml.safe_load(export("compose", "--profile", "prod").stdout)["services"]["users"]
    assert read["environment"]["PYWATT_PROFILE"] == "prod"
    assert read["ports"] == [{"target": 9000, "published": 9000}]


def test_an_application_without_a_manifest_has_its_files_too(folder: Path) -> None:
    done = export("systemd", "main:app")
    assert done.exit_code == 0
    assert "/bin/pywatt-host run main:app\n" in done.stdout


@pytest.mark.parametrize("kind", ["systemd", "kubernetes"])
def test_nats_is_named_for_a_manifest_that_has_it(folder: Path, kind: str) -> None:
    written(folder, channels={"nats": "nats://127.0.0.1:4222"})
    done = export(kind, "--nats", "nats://n.example:4222")
    assert done.exit_code == 0
    assert "PYWATT__CHANNELS__NATS__SERVERS" in done.stdout
    assert "nats://n.example:4222" in done.stdout
