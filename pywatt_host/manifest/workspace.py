"""wattson.yaml to Workspace: read, interpolated, typed and checked as a manifest is, without profiles and overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.checks.stores import Keeping
from pywatt_host.manifest.layers.interpolation import Variables, interpolate
from pywatt_host.manifest.load import DEFAULT_NAME, Source, environment, load, read_source
from pywatt_host.manifest.model.workspace import Workspace, WorkspaceModule
from pywatt_host.manifest.problems import Problem, Report, Severity, near_miss, quote
from pywatt_host.manifest.schema.normalize import Expansion, written_secrets
from pywatt_host.manifest.schema.shape import shape_of
from pywatt_host.manifest.schema.typing import locate, validate
from pywatt_host.manifest.yaml.node import Node
from pywatt_host.manifest.yaml.node import Path as KeyPath

WORKSPACE_NAME = "wattson.yaml"
_SMALLEST = "modules: {users: {manifest: users/pywatt.yaml}}"


@dataclass(frozen=True, slots=True)
class LoadedWorkspace:
    """A workspace, what to warn about, and the tree that knows where each of its values stands."""

    workspace: Workspace
    warnings: tuple[Problem, ...]
    document: Node


def workspace_source(path: str | Path = WORKSPACE_NAME) -> Source:
    """A wattson.yaml, or a folder with one."""
    return Source.file(path, default_name=WORKSPACE_NAME)


def load_workspace(
    source: Source, *, environ: Mapping[str, str] | None = None, env_file: Path | None = None, allow_unset: bool = False
) -> LoadedWorkspace:
    """The workspace with its warnings. Raises ManifestError with every fault found.

    `environ` (None: that of the process) wins over `env_file`. The manifests of its modules are not read.
    """
    report = Report()
    shape = shape_of(Workspace)
    workspace: Workspace | None = None
    tree: Node | None = None
    variables = Variables(environment(environ, env_file, report), str(source.directory), allow_unset)
    written = read_source(source, WORKSPACE_NAME, report, smallest=_SMALLEST)
    if written is not None:
        report.secrets = frozenset(written_secrets(written, shape))
        root = interpolate(written, shape, variables, report) if source.data is None else written
        expansion = Expansion(report, shape)
        tree = expansion.expand(root, shape) or Node({}, root.mark, root.origin, keys={})
        workspace = validate(tree, Workspace, shape, expansion.faulted, report)
    if workspace is not None and tree is not None:
        workspace._directory = source.directory
        workspace._source = Path(os.path.abspath(source.path)) if source.path is not None else None
        _CrossReferences(workspace, tree, report).check()
    errors = report.errors()
    if errors or workspace is None or tree is None:
        raise ManifestError(errors)
    return LoadedWorkspace(workspace, tuple(report.ordered()), tree)


def from_manifests(
    paths: Sequence[str | Path], *, environ: Mapping[str, str] | None = None, env_file: Path | None = None
) -> LoadedWorkspace:
    """The workspace of several manifests (files, or folders with one), for which nobody wrote a wattson.yaml.

    The id of a module is its `module.id`, else the name of its folder; the second of the same id gets `-2`, the third
    `-3`. Relative paths are relative to the current directory. Raises ManifestError for manifests that are faulty,
    all of them at once.
    """
    modules: dict[str, dict[str, str]] = {}
    faults: list[Problem] = []
    for path in paths:
        try:
            manifest = load(Source.file(path), environ=environ, env_file=env_file).manifest
        except ManifestError as error:
            faults += error.problems
            continue
        modules[_free_id(manifest.module_id, modules)] = {"manifest": os.path.abspath(path)}
    if faults:
        raise ManifestError(faults)
    source = Source.of_data({"modules": modules}, name="the manifests given")
    return load_workspace(source, environ=environ, env_file=env_file)


def _free_id(wanted: str, taken: Mapping[str, object]) -> str:
    """The wanted name as an id of a module, with a number where it is taken."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", wanted).lstrip("._-")[:56] or "module"
    number = 1
    while (name := plain if number == 1 else f"{plain}-{number}") in taken:
        number += 1
    return name


class _CrossReferences:
    """Reports what does not fit together; `tree` says where each part stands."""

    def __init__(self, workspace: Workspace, tree: Node, report: Report) -> None:
        self._workspace = workspace
        self._tree = tree
        self._report = report

    def check(self) -> None:
        """All of it."""
        self._sources()
        Keeping(self._workspace, self._keeping, self._is_unset).check()
        for name, module in self._workspace.modules.items():
            self._dependencies(name, module)
            self._places(name, module)
        self._cycles()

    def _add(self, path: KeyPath, code: str, message: str, hint: str = "") -> None:
        node, written, real = locate(self._tree, path)
        parent, _, _ = locate(self._tree, path[:-1])
        # What was named in a list, or is a key with nothing said about it, is pointed at by its name.
        mark = (parent.keys or {}).get(str(path[-1])) if isinstance(node.value, dict) else None
        self._report.add(node.problem((*written, *path[len(real) :]), code, message, hint, mark=mark))

    def _keeping(self, path: KeyPath, code: str, message: str, hint: str, severity: Severity) -> None:
        self._add(path, code, message, hint)

    def _is_unset(self, path: KeyPath) -> bool:
        return any(locate(self._tree, path[:length])[0].unset for length in range(1, len(path) + 1))

    def _sources(self) -> None:
        seen: set[str] = set()
        for number, source in enumerate(self._workspace.secrets.sources or ()):
            path: KeyPath = ("secrets", "sources", number, "kind")
            if source.kind == "orchestrator":
                hint = "name where the secrets really are: env, dotenv, directory, file, command or vault"
                self._add(path, "conflict", "this is the orchestrator: it cannot ask itself", hint)
            elif source.kind is not None and source.kind in seen:
                self._add(path, "conflict", f"the source `{source.kind}` stands twice", "remove one of them")
            seen.add(source.kind or "")

    def _dependencies(self, name: str, module: WorkspaceModule) -> None:
        declared = list(self._workspace.modules)
        for other in module.depends_on:
            path: KeyPath = ("modules", name, "depends_on", other)
            if other == name:
                self._add(path, "dependency-cycle", f"{quote(name)} depends on itself", "remove it")
            elif other not in declared:
                meant = near_miss(other, [each for each in declared if each != name])
                hint = f'did you mean "{meant}"?' if meant else f"declared: {', '.join(declared[:12])}"
                self._add(path, "unknown-module", f"there is no module {quote(other)}", hint)

    def _cycles(self) -> None:
        for cycle in _cycles({name: list(module.depends_on) for name, module in self._workspace.modules.items()}):
            path: KeyPath = ("modules", cycle[0], "depends_on", cycle[1])
            message = f"the modules wait for each other: {' -> '.join(cycle)}"
            self._add(path, "dependency-cycle", message, "remove one of these dependencies")

    def _places(self, name: str, module: WorkspaceModule) -> None:
        """Manifests and folders that must be there."""
        if module.manifest is not None:
            path: KeyPath = ("modules", name, "manifest")
            found = self._workspace.resolve(module.manifest)
            if _is(found, folder=True):
                found = found / DEFAULT_NAME
            if not _is(found, folder=False) and not locate(self._tree, path)[0].unset:
                self._add(path, "no-file", f"no such manifest: {self._shown(path, module.manifest)}", _nearby(found))
        else:
            path = ("modules", name, "working_dir")
            found = self._workspace.resolve(module.working_dir)
            if not _is(found, folder=True) and not locate(self._tree, path)[0].unset:
                self._add(path, "no-folder", f"no such folder: {self._shown(path, module.working_dir)}", _nearby(found))

    def _shown(self, path: KeyPath, value: str) -> str:
        node, _, _ = locate(self._tree, path)
        return f"what `{node.template}` gave" if node.template is not None else quote(value)


def _is(path: Path, *, folder: bool) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # a name that no file system takes: too long, or with a NUL in it
        return False


def _nearby(path: Path) -> str:
    try:
        meant = near_miss(path.name, [each.name for each in path.parent.iterdir()])
    except (OSError, ValueError):
        meant = None
    return f'did you mean "{meant}"?' if meant else "it is relative to the folder of this file"


def _cycles(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Ways along the edges that come back to where they began, each once; not those of one step."""
    done: set[str] = set()
    for start in edges:
        way: list[str] = []
        pending: list[tuple[str, Iterator[str]]] = []
        if start not in done:
            way, pending = [start], [(start, iter(edges[start]))]
        while pending:
            name, others = pending[-1]
            other = next(others, None)
            if other is None:
                pending.pop()
                way.pop()
                done.add(name)
            elif other in way and other != name:
                yield [*way[way.index(other) :], other]
            elif other in edges and other not in done and other not in way:
                way.append(other)
                pending.append((other, iter(edges[other])))
