"""What a deployment has to know of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pywatt_host.export import ExportOptions, compose, kubernetes, read, systemd
from pywatt_host.manifest import Source
from tests.export.modules import COMMAND, ENVIRON, MANIFESTS, SECRETS, facts, facts_of, manifest

KINDS = {"compose": compose, "kubernetes": kubernetes, "systemd": systemd}


@pytest.mark.parametrize(
    ("module_id", "name"),
    [
        ("users", "users"),
        ("Users_API.v2", "users-api-v2"),
        ("9lives", "module-9lives"),
        ("a" * 63, "a" * 40),
        ("a" * 39 + "-b", "a" * 39),
        ("x--y_", "x-y"),
    ],
)
def test_the_name_is_a_dns_label(module_id: str, name: str) -> None:
    assert facts_of({"app": "main:app", "module": {"id": module_id}}).name == name


@pytest.mark.parametrize(
    ("version", "tag"), [(None, "latest"), ("1.4.0", "1.4.0"), ("1.4.0+b 7", "1.4.0-b-7"), ("..", "latest")]
)
def test_the_version_is_the_tag_of_an_image(version: str | None, tag: str) -> None:
    assert facts_of({"app": "main:app", "module": {"version": version} if version else {}}).version == tag


def test_the_time_until_a_kill_is_above_all_that_draining_may_take() -> None:
    assert facts("smallest").grace(balanced=False) == 30
    assert facts("smallest").grace(balanced=True) == 35
    assert facts("slow").grace(balanced=True) == facts("slow").grace(balanced=False) == 107


def test_variables_are_those_that_are_read_and_not_left_to_their_default() -> None:
    found = facts("variables")
    assert found.variables == ("REGION", "SET_HERE")
    assert any("REGION, SET_HERE" in note for note in found.notes(container=True, replicas=1))


def test_overrides_of_this_shell_do_not_count() -> None:
    assert facts("smallest").manifest.overridden == frozenset()


def test_the_profile_is_that_of_the_option_else_of_the_environment(tmp_path: Path) -> None:
    text = "app: main:app\nprofiles: {a: {module: {id: a}}, b: {module: {id: b}}}"
    source = Source.of_text(text, directory=tmp_path)
    for asked, expected in (("a", "a"), (None, "b")):
        found, _ = read(source, profile=asked, environ={"PYWATT_PROFILE": "b"}, command=COMMAND)
        assert (found.profile, found.name, found.variables) == (expected, expected, ())


@pytest.mark.parametrize(
    ("secrets", "anywhere", "path", "sources"),
    [
        ({"keys": SECRETS}, True, "/usual", '[{"directory": "/usual"}, "orchestrator", "env"]'),
        ({"keys": SECRETS, "sources": ["env"]}, True, "/usual", '[{"directory": "/usual"}, "env"]'),
        ({"keys": SECRETS, "sources": ["env", {"directory": "/etc/v"}]}, True, "/etc/v", None),
        ({"keys": SECRETS, "sources": [{"directory": "/etc/v"}]}, False, "/usual", '[{"directory": "/usual"}]'),
        (
            {"keys": SECRETS, "sources": [{"dotenv": ".env"}, {"directory": "v"}]},
            True,
            "/usual",
            '[{"directory": "/usual"}, {"dotenv": ".env"}]',
        ),
    ],
)
def test_secrets_are_mounted_where_the_manifest_looks_or_it_is_told_where(
    secrets: Any, anywhere: bool, path: str, sources: str | None
) -> None:
    mount = facts_of({"app": "main:app", "secrets": secrets}).secret_mount("/usual", anywhere=anywhere)
    assert mount is not None
    assert mount.path == path
    assert mount.variables == ({"PYWATT__SECRETS__SOURCES": sources} if sources else {})


@pytest.mark.parametrize(
    "source", [{"vault": {"address": "https://v", "path": "a/b"}}, {"command": ["pass", "${name}"]}, {"file": "s.yaml"}]
)
def test_sources_that_may_hold_a_secret_themselves_are_left_alone(source: Any) -> None:
    data = {"app": "main:app", "secrets": {"keys": SECRETS, "sources": [source, "env"]}}
    found = facts_of(data)
    assert found.secret_mount("/usual") is None
    for kind in KINDS.values():
        assert "secrets.sources of the manifest" in "".join(kind(found, ExportOptions()).files.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_what_is_written_is_the_same_each_time_and_has_every_secret_by_name_alone(kind: str, name: str) -> None:
    for options in (ExportOptions(), ExportOptions(replicas=3)):
        files = KINDS[kind](facts(name), options).files
        assert KINDS[kind](facts(name), options).files == files
        whole = "".join(files.values())
        assert ENVIRON["TOKEN"] not in whole
        assert COMMAND in whole
        assert all(text.endswith("\n") and text.isascii() for text in files.values())
        found = facts(name)
        if found.secret_mount("/x") is not None:
            assert [secret for secret in found.manifest.secret_keys if secret not in whole] == []


@pytest.mark.parametrize("kind", KINDS)
def test_literals_for_the_application_stay_in_the_manifest(kind: str) -> None:
    """Only what has to differ is written: `app.env` and `config` are not."""
    data = {"app": {"import_path": "main:app", "env": {"KEY": "a-literal-value"}}, "config": {"key": "a-literal-value"}}
    assert "a-literal-value" not in "".join(KINDS[kind](facts_of(data), ExportOptions(replicas=2)).files.values())


@pytest.mark.parametrize(
    ("data", "container", "note"),
    [
        (manifest("sqlite"), True, "databases.default: the database file is lost with its container"),
        (manifest("sqlite"), False, "databases.default: each instance has its own database file"),
        ({"app": "a:b", "databases": {"default": "postgresql+dev://"}}, True, "works under dev and up only"),
        ({"app": "a:b", "channels": {"ipc": {"listen": "x.sock"}}}, True, "channels.ipc.listen: x.sock"),
        (manifest("health-off"), False, "health is off"),
        (manifest("unix"), True, "server.trusted_proxies"),
    ],
)
def test_what_has_to_be_known_is_said(data: Any, container: bool, note: str) -> None:
    assert any(note in each for each in facts_of(data).notes(container=container, replicas=2))
