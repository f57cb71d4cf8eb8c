"""wattson.yaml: read as a manifest is, or made of manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.values import TcpAddress
from pywatt_host.manifest.workspace import from_manifests, load_workspace, workspace_source


def loaded(text: str, directory: Path, **environ: str) -> Workspace:
    source = Source.of_text(text, name="wattson.yaml", directory=directory)
    return load_workspace(source, environ=environ).workspace


def module(folder: Path, text: str = "app: main:app") -> Path:
    folder.mkdir(parents=True)
    (folder / "pywatt.yaml").write_text(text)
    return folder / "pywatt.yaml"


def test_a_folder_stands_for_the_workspace_in_it(tmp_path: Path) -> None:
    module(tmp_path / "users")
    (tmp_path / "wattson.yaml").write_text("modules: {users: {manifest: users}}")
    workspace = load_workspace(workspace_source(tmp_path), environ={}).workspace
    assert (workspace.directory, workspace.source) == (tmp_path, tmp_path / "wattson.yaml")
    assert workspace.gateway.listen == TcpAddress("127.0.0.1", 9900)
    assert workspace.resolve("users") == tmp_path / "users"


def test_a_missing_workspace_is_a_problem_that_suggests_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "wattson.yml").write_text("")
    with pytest.raises(ManifestError) as caught:
        load_workspace(workspace_source(tmp_path), environ={})
    (problem,) = caught.value.problems
    assert (problem.code, problem.hint) == ("file", f'did you mean "{tmp_path / "wattson.yml"}"?')


def test_variables_are_interpolated(tmp_path: Path) -> None:
    text = "modules: {a: {command: ['${dir}/a', '${X:-y}'], replicas: '${N}'}}"
    found = loaded(text, tmp_path, N="3").modules["a"]
    assert (found.command, found.replicas) == ((f"{tmp_path}/a", "y"), 3)


def test_an_unset_variable_can_be_a_warning(tmp_path: Path) -> None:
    source = Source.of_text("modules: {a: {command: [x], replicas: '${N}'}}", directory=tmp_path)
    found = load_workspace(source, environ={}, allow_unset=True)
    assert [problem.code for problem in found.warnings] == ["variable-unset"]
    assert found.workspace.modules["a"].replicas == 1


def test_the_placeholder_of_a_command_of_secrets_is_left_to_it(tmp_path: Path) -> None:
    text = "modules: {a: {command: [x]}}\nsecrets: {sources: [{command: [op, '${name}']}]}"
    (source,) = loaded(text, tmp_path).secrets.sources or ()
    assert source.command == ("op", "${name}")


def test_every_cycle_is_named_once(tmp_path: Path) -> None:
    text = """
modules:
  a: {command: [x], depends_on: [b]}
  b: {command: [x], depends_on: [c, a]}
  c: {command: [x], depends_on: [a, d]}
  d: {command: [x]}
"""
    with pytest.raises(ManifestError) as caught:
        loaded(text, tmp_path)
    found = [problem.message.partition(": ")[2] for problem in caught.value.problems]
    assert sorted(found) == ["a -> b -> a", "a -> b -> c -> a"]


def test_a_long_chain_of_dependencies_is_no_cycle(tmp_path: Path) -> None:
    lines = [f"  m{number}: {{command: [x], depends_on: [m{number + 1}]}}" for number in range(3000)]
    workspace = loaded("\n".join(["modules:", *lines, "  m3000: {command: [x]}"]), tmp_path)
    assert len(workspace.modules) == 3001


# Several manifests ----------------------------------------------------------------------------------------------------


def test_manifests_become_a_workspace_with_their_ids_or_the_names_of_their_folders(tmp_path: Path) -> None:
    paths = [
        module(tmp_path / "users"),
        module(tmp_path / "two words").parent,
        module(tmp_path / "x", "app: m:a\nmodule: {id: billing}"),
        module(tmp_path / "y", "app: m:a\nmodule: {id: users}"),
        module(tmp_path / "z", "app: m:a\nmodule: {id: '${ID}'}"),
    ]
    workspace = from_manifests(paths, environ={"ID": "users"}).workspace
    assert {name: each.manifest for name, each in workspace.modules.items()} == {
        "users": str(paths[0]),
        "two-words": str(paths[1]),
        "billing": str(paths[2]),
        "users-2": str(paths[3]),
        "users-3": str(paths[4]),
    }
    assert workspace.source is None


def test_all_faulty_manifests_are_told_at_once(tmp_path: Path) -> None:
    paths = [module(tmp_path / "a", "ap: m:a"), module(tmp_path / "b"), tmp_path / "c" / "pywatt.yaml"]
    with pytest.raises(ManifestError) as caught:
        from_manifests(paths, environ={})
    assert [problem.code for problem in caught.value.problems] == ["unknown-key", "file"]
