"""Values in profiles that are not active: `validate` checks them as an editor does, where no variable decides."""

from __future__ import annotations

import json

from tests.processes import Project

MANIFEST = """\
app: main:app
profiles:
  dev: {server: {workers: "x"}, logging: {level: loud}}
  prod:
    server: {workers: "${COUNT}", listen: "${ADDRESS:-nowhere}", timeouts: {request: soon}}
    databases: {main: {url: "${secret:URL}"}}
  good: {server: {workers: 2}, logging: {level: debug}}
"""


def validated(project: Project, *options: str) -> list[tuple[str, str, int]]:
    done = project.cli("validate", "--no-import", "--format", "json", *options)
    return [(each["path"], each["code"], each["line"]) for each in json.loads(done.stdout)]


def test_each_value_without_a_variable_is_checked(project: Project) -> None:
    project.write("pywatt.yaml", MANIFEST)
    assert [path for path, _, _ in validated(project)] == [
        "profiles.dev.server.workers",
        "profiles.dev.logging.level",
        "profiles.prod.server.timeouts.request",
    ]
    assert project.cli("validate", "--no-import").returncode == 2


def test_the_active_profile_is_told_once(project: Project) -> None:
    project.write("pywatt.yaml", MANIFEST)
    found = validated(project, "--profile", "dev")
    assert [(path, line) for path, _, line in found] == [
        ("server.workers", 3),
        ("logging.level", 3),
        ("profiles.prod.server.timeouts.request", 5),
    ]


def test_profiles_without_a_fault_are_valid(project: Project) -> None:
    project.write("pywatt.yaml", MANIFEST.replace('"x"', "2").replace("loud", "info").replace("soon", "5s"))
    assert validated(project) == []
