"""Loads a wattson.yaml: reads, interpolates, normalizes, types and checks it. It has no profiles and no overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.checks.workspace import WorkspaceChecks
from pywatt_host.manifest.layers.interpolation import Variables, interpolate
from pywatt_host.manifest.load import environment, load
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import Problem, Report
from pywatt_host.manifest.schema.normalize import Normalizer, written_secrets
from pywatt_host.manifest.schema.shape import shape_of
from pywatt_host.manifest.schema.typing import validate
from pywatt_host.manifest.source import DEFAULT_NAME, WORKSPACE_NAME, Source, read_source
from pywatt_host.manifest.values.names import Script, script_of
from pywatt_host.manifest.yaml.node import Node

_USUAL_NAMES = ("app", "main", "module", "__init__")  # of Python files, which do not tell modules apart
_SMALLEST = "modules: {users: {manifest: users/pywatt.yaml}}"


@dataclass(frozen=True, slots=True)
class LoadedWorkspace:
    """A workspace, its warnings, and the tree that knows where each value came from."""

    workspace: Workspace
    warnings: tuple[Problem, ...]
    document: Node


@dataclass(frozen=True, slots=True)
class ReadWorkspace:
    """What could be read of a workspace, and every problem of it. Where it is `faulty`, the workspace is without the
    values that have a fault, or missing."""

    workspace: Workspace | None
    problems: list[Problem]
    document: Node | None
    faulty: bool


def workspace_source(path: str | Path = WORKSPACE_NAME) -> Source:
    """The source of a wattson.yaml, or of a folder that contains one."""
    return Source.file(path, default_name=WORKSPACE_NAME)


def load_workspace(
    source: Source, *, environ: Mapping[str, str] | None = None, env_file: Path | None = None, allow_unset: bool = False
) -> LoadedWorkspace:
    """Load a workspace with its warnings. Raises ManifestError with all faults.

    `environ` (None: the environment of the process) overrides `env_file`. The manifests of the modules are not read.
    """
    read = read_workspace(source, environ=environ, env_file=env_file, allow_unset=allow_unset)
    if read.faulty or read.workspace is None or read.document is None:
        raise ManifestError(read.problems)
    return LoadedWorkspace(read.workspace, tuple(read.problems), read.document)


def read_workspace(
    source: Source, *, environ: Mapping[str, str] | None = None, env_file: Path | None = None, allow_unset: bool = False
) -> ReadWorkspace:
    """As `load_workspace`, but raises nothing: a workspace with faults is given as far as it can be read."""
    report = Report()
    shape = shape_of(Workspace)
    workspace: Workspace | None = None
    tree: Node | None = None
    variables = Variables(environment(environ, env_file, report), str(source.directory), allow_unset)
    written = read_source(source, WORKSPACE_NAME, report, smallest=_SMALLEST)
    if written is not None:
        report.secrets = frozenset(written_secrets(written, shape))
        root = interpolate(written, shape, variables, report) if source.data is None else written
        normalizer = Normalizer(report, shape)
        tree = normalizer.normalize(root, shape) or Node({}, root.mark, root.origin, keys={})
        workspace, left_out = validate(tree, Workspace, shape, normalizer.faulted, report)
        if workspace is not None:
            workspace = workspace.located(source.directory, source.absolute_path)
            WorkspaceChecks(workspace, tree, report, LeftOut(tree, left_out)).check()
    errors = report.errors()
    return ReadWorkspace(workspace, errors or report.ordered(), tree, bool(errors))


def script_of_module(workspace: Workspace, id: str) -> Script | None:
    """The Python file that a module's `manifest` names; None where it names a YAML file or a folder, or is missing."""
    manifest = workspace.modules[id].manifest
    path = workspace.resolve(manifest) if manifest is not None else None
    return script_of(os.fspath(path)) if path is not None and not os.path.isdir(path) else None


def manifest_file(workspace: Workspace, id: str) -> Path:
    """The file that a module's `manifest` names: YAML or Python."""
    script = script_of_module(workspace, id)
    if script is not None:
        return script.path
    path = workspace.resolve(workspace.modules[id].manifest or "")
    return path / DEFAULT_NAME if os.path.isdir(path) else path


def from_manifests(
    paths: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, env_file: Path | None = None
) -> LoadedWorkspace:
    """Make a workspace of several manifests (files, folders that contain one, or Python files with a decorated
    function), without a wattson.yaml.

    The id of a module is its `module.id`; if it is not set, the name of its folder, or of its Python file. The second
    module with the same id gets `-2`, the third `-3`. Relative paths are relative to the current directory. Raises
    ManifestError with the faults of all YAML files; Python files are not read.
    """
    modules: dict[str, dict[str, str]] = {}
    faults: list[Problem] = []
    for path in paths:
        script = script_of(os.path.abspath(path)) if not os.path.isdir(path) else None
        try:
            if script is None:
                wanted = load(Source.file(path), environ=environ, env_file=env_file).manifest.module_id
            else:
                wanted = _id_of(script)
        except ManifestError as error:
            faults += error.problems
            continue
        modules[_free_id(wanted, modules)] = {"manifest": os.path.abspath(path)}
    if faults:
        raise ManifestError(faults)
    source = Source.of_data({"modules": modules}, name="the manifests given")
    return load_workspace(source, environ=environ, env_file=env_file)


def _id_of(script: Script) -> str:
    """The id of a module in a Python file: the name of the file, or of its folder where the file has a usual name."""
    return script.path.parent.name if script.path.stem in _USUAL_NAMES else script.path.stem


def _free_id(wanted: str, taken: Mapping[str, object]) -> str:
    """Make a module id from a name, with a number if the id is already used."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", wanted).lstrip("._-")[:56] or "module"
    number = 1
    while (name := plain if number == 1 else f"{plain}-{number}") in taken:
        number += 1
    return name
