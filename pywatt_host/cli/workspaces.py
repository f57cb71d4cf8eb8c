"""What `up` and `validate` share: the workspace that a command works on, and all that its modules say of themselves."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Loaded, Problem, Source
from pywatt_host.manifest.load import Examined
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.source import DEFAULT_NAME, WORKSPACE_NAME
from pywatt_host.manifest.values.names import Script

if TYPE_CHECKING:
    from pywatt_host.orchestrator.manifests import ModuleManifests

APP_FAULT = "app-"  # the codes of faults that importing an application brings up begin so


def is_workspace(path: Path) -> bool:
    """Whether a path names a workspace: a file whose name begins with `wattson` or ends so, or a folder that has a
    wattson.yaml."""
    if path.is_dir():
        return (path / WORKSPACE_NAME).is_file()
    return path.suffix != ".py" and (path.name.startswith("wattson") or path.stem.endswith("wattson"))


def is_only_a_workspace(path: Path) -> bool:
    """As `is_workspace`, but a folder that has a pywatt.yaml too is a module."""
    return is_workspace(path) and not (path.is_dir() and (path / DEFAULT_NAME).is_file())


def reader_of(workspace: Workspace, environ: Mapping[str, str]) -> ModuleManifests:
    """Reads the manifests of a workspace. A Python file is imported in a child process, as `up` will start it."""
    kind: type[ModuleManifests] = import_module("pywatt_host.orchestrator.manifests").ModuleManifests
    return kind(workspace, environ, _described)


def _described(script: Script, environ: Mapping[str, str], directory: Path) -> Source:
    inspection = import_module("pywatt_host.cli.inspection")
    source: Source = inspection.describe(script, place=inspection.ChildPlace(environ, directory))
    return source


def faults_of(error: ManifestError | AppLoadError) -> list[Problem]:
    """The faults of a manifest, or of a Python file in place of one."""
    if isinstance(error, ManifestError):
        return list(error.problems)
    code, detail = f"app-{error.reason}", "\n".join(getattr(error, "__notes__", ()))
    file, here = Path(error.import_path), Path.cwd()
    if file.is_absolute() and file.is_relative_to(here):
        file = file.relative_to(here)
    return [Problem(os.fspath(file), 0, 0, "", code, error.message, error.hint, detail=detail)]


@dataclass(frozen=True, slots=True)
class CheckedModules:
    """The manifests that could be read, and every problem of every module, in the order of the workspace."""

    manifests: dict[str, Manifest]
    problems: list[Problem]


def check_modules(
    workspace: Workspace,
    reader: ModuleManifests,
    *,
    allow_unset: bool = False,
    imports: bool = True,
    more: Callable[[Examined, Loaded], list[Problem]] = lambda examined, loaded: [],
) -> CheckedModules:
    """Read the manifest of each module, and with `imports` import its applications in a child process with the
    environment that the module will have. `more` gives further problems of a manifest."""
    examined: dict[str, Examined] = {}
    problems: dict[str, list[Problem]] = {}
    for id in reader.ids:
        try:
            examined[id] = reader.examined(id, allow_unset=allow_unset)
        except (ManifestError, AppLoadError) as error:
            problems[id] = faults_of(error)
    manifests: dict[str, Manifest] = {}
    for id, each in examined.items():  # only now the names of all secrets are known
        found, loaded = list(each.problems), each.loaded
        if loaded is not None:
            found += _denied(workspace, id, loaded)
            if imports:
                found += _imported(reader, id, each, loaded, allow_unset)
            found += more(each, loaded)
            if not each.faulty:
                manifests[id] = loaded.manifest
        problems[id] = sorted(found, key=lambda problem: (not problem.line, problem.line, problem.column))
    ordered = [problem for id in workspace.modules for problem in problems.get(id, ())]
    return CheckedModules(manifests, ordered)


def _imported(reader: ModuleManifests, id: str, examined: Examined, loaded: Loaded, allow_unset: bool) -> list[Problem]:
    inspection = import_module("pywatt_host.cli.inspection")
    script, manifest = reader.script(id), loaded.manifest
    source = Source(str(manifest.source), manifest.directory, path=manifest.source)
    if manifest.source is None:
        assert script is not None
        source = Source(str(script), manifest.directory, script=Path(str(script)))
    asked = inspection.Request(
        source,
        reader.profile(id),
        (),
        None,
        allow_unset,
        build=False,
        place=inspection.ChildPlace(reader.environment(id), reader.directory),
        init=reader.init(id),
    )
    problems: list[Problem] = import_module("pywatt_host.cli.import_problems").import_problems(asked, examined, loaded)
    return problems


def _denied(workspace: Workspace, id: str, loaded: Loaded) -> Iterator[Problem]:
    """The secrets that a module needs, and that `modules.*.secrets` does not let it read."""
    listed = workspace.modules[id].secrets
    for name, key in loaded.manifest.secret_keys.items() if listed is not None else ():
        if key.required and name not in (listed or ()):
            node, path = loaded.node_at("secrets")
            message = f"the module needs {name}, which modules.{id}.secrets of the workspace does not let it read"
            yield node.problem(path, "conflict", message, f"add {name} to that list", severity="warning")


def unusable(problems: list[Problem]) -> list[Problem]:
    """Those problems with which a module cannot start. A missing dependency is one of them: `validate` may run where
    the packages of an application are not installed, and `up` may not."""
    return [each for each in problems if each.severity == "error" or each.code == "app-missing-dependency"]


def exit_code_of(faults: list[Problem]) -> int:
    """2 where a manifest is at fault, and 3 where only applications cannot be imported."""
    return 3 if all(each.code.startswith(APP_FAULT) for each in faults) else 2


def found_in(folder: Path) -> bool:
    """Whether a command without arguments works on the workspace in a folder: there is no manifest, but a
    wattson.yaml."""
    return not os.environ.get("PYWATT_MANIFEST") and is_only_a_workspace(folder)
