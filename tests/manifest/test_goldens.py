"""Manifests in files, each with what loading it gives: `#> code | problem` lines or one `#= data` line.

`#!` lines are how it is loaded: `environ A=b C=d`, `profile name`, `set a.b=c`. Those in `wattson` are workspaces.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Loaded, Source, dump, load
from pywatt_host.manifest.workspace import LoadedWorkspace, load_workspace

GOLDENS = Path(__file__).parent.parent / "manifests"


@dataclass
class Golden:
    text: bytes
    expected: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    profile: str | None = None
    overrides: list[str] = field(default_factory=list)

    def load_workspace(self) -> LoadedWorkspace:
        source = Source.of_text(self.text, name="wattson.yaml", directory=GOLDENS / "wattson")
        return load_workspace(source, environ=self.environ)

    def load(self) -> Loaded:
        source = Source.of_text(self.text, directory=GOLDENS / "faulty")
        return load(source, profile=self.profile, overrides=self.overrides, environ=self.environ)


def read(path: Path) -> Golden:
    lines = path.read_bytes().splitlines(keepends=True)
    golden = Golden(b"".join(line for line in lines if not line.startswith((b"#>", b"#!", b"#="))))
    for line in (raw.decode().rstrip("\n") for raw in lines):
        if line.startswith(("#>", "#=")):
            golden.expected.append(line[3:])
        elif line.startswith("#! environ "):
            golden.environ |= dict(pair.split("=", 1) for pair in line[11:].split(" "))
        elif line.startswith("#! profile "):
            golden.profile = line[11:]
        elif line.startswith("#! set "):
            golden.overrides.append(line[7:])
    return golden


def files(kind: str) -> list[Path]:
    return sorted((GOLDENS / kind).glob("*.yaml"))


def told(error: ManifestError, file: str) -> list[str]:
    """`code | problem` for each problem."""
    return [f"{each.code} | {(each.where + each.what).removeprefix(file)}" for each in error.problems]


@pytest.mark.parametrize("path", files("faulty"), ids=lambda path: path.stem)
def test_a_faulty_manifest_gives_these_problems(path: Path) -> None:
    golden = read(path)
    with pytest.raises(ManifestError) as caught:
        golden.load()
    assert told(caught.value, "pywatt.yaml:") == golden.expected


@pytest.mark.parametrize("path", files("wattson/faulty"), ids=lambda path: path.stem)
def test_a_faulty_workspace_gives_these_problems(path: Path) -> None:
    golden = read(path)
    with pytest.raises(ManifestError) as caught:
        golden.load_workspace()
    assert told(caught.value, "wattson.yaml:") == golden.expected


@pytest.mark.parametrize("path", files("wattson/good"), ids=lambda path: path.stem)
def test_a_good_workspace_gives_this_data(path: Path) -> None:
    golden = read(path)
    (expected,) = golden.expected
    assert golden.load_workspace().workspace.model_dump(mode="json", exclude_unset=True) == json.loads(expected)


@pytest.mark.parametrize("path", files("good"), ids=lambda path: path.stem)
def test_a_good_manifest_gives_this_data(path: Path) -> None:
    golden = read(path)
    (expected,) = golden.expected
    data = dump(golden.load().manifest)
    assert _only(data, json.loads(expected)) == json.loads(expected)


def _only(data: Any, wanted: Any) -> Any:
    """The part of the data that the golden file mentions."""
    if isinstance(data, dict) and isinstance(wanted, dict):
        return {key: _only(data[key], item) for key, item in wanted.items() if key in data}
    if isinstance(data, list) and isinstance(wanted, list) and len(data) == len(wanted):
        return [_only(item, other) for item, other in zip(data, wanted, strict=True)]
    return data


def test_every_code_is_documented_and_every_documented_code_is_shown_by_a_golden() -> None:
    documented = {
        line.removeprefix("## `").rstrip("`")
        for line in (GOLDENS.parent.parent / "docs" / "errors.md").read_text().splitlines()
        if line.startswith("## `")
    }
    faulty = files("faulty") + files("wattson/faulty")
    shown = {line.split(" | ")[0] for path in faulty for line in read(path).expected}
    # These are shown by tests of their own: they take more than a small file.
    elsewhere = {"file", "encoding", "control-character", "too-large", "too-deep", "too-many", "invalid", "host-path"}
    elsewhere |= {"script", "schema-disagrees", "auth-key"}
    elsewhere |= {"workers-cores", "workers-memory"}  # these depend on the machine
    # And these are problems of applications, certificates and other servers, and not of the text.
    elsewhere |= {each for each in documented if each.startswith(("app-", "drift-", "import-", "tls-"))}
    elsewhere |= {"bind", "unreachable", "secret-missing", "secret-empty", "secret-whitespace"}
    assert shown - documented == set()
    assert documented - shown - elsewhere == set()
