"""`validate` says so where the published schema and the types disagree, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pywatt_host.manifest import Source
from pywatt_host.manifest.schema import comparison
from pywatt_host.manifest.schema.comparison import disagreements
from pywatt_host.manifest.schema.json_schema import manifest_schema
from tests.manifest.schema.test_schema import GOLDENS


@pytest.mark.parametrize(
    "path",
    [*sorted((GOLDENS / "good").glob("*.yaml")), *sorted((GOLDENS / "faulty").glob("*.yaml"))],
    ids=lambda path: path.stem,
)
def test_they_agree_about_every_manifest_of_the_tests(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    text = b"".join(line for line in lines if not line.startswith((b"#>", b"#!", b"#=")))
    assert [str(each) for each in disagreements(Source.of_text(text, directory=GOLDENS / "faulty"))] == []


def changed(monkeypatch: pytest.MonkeyPatch, **properties: Any) -> None:
    schema = manifest_schema()
    schema["properties"] |= properties
    monkeypatch.setattr(comparison, "manifest_schema", lambda: schema)


def test_a_schema_that_refuses_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, state={"const": "other:build"})
    (found,) = disagreements(Source.of_text("app: main:app\nstate: users:build\n"))
    assert (found.line, found.path, found.severity) == (2, "state", "warning")
    assert "the published JSON schema refuses this" in found.message


def test_a_schema_that_accepts_too_much_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, health={})
    (found,) = disagreements(Source.of_text("app: main:app\nhealth: {interval: soon}\n"))
    assert (found.line, found.path, found.code) == (2, "health.interval", "schema-disagrees")
    assert "the published JSON schema accepts this" in found.message


def test_what_no_schema_can_see_is_no_disagreement() -> None:
    for text in ("app: main:app\nserver: {workers: ${N:-many}}\n", "app: m:a\nauth: {jwt: {secret: x}}\n", "- a\n", ""):
        assert disagreements(Source.of_text(text)) == []
    assert disagreements(Source.of_data({"app": "main"}, name="code")) == []
