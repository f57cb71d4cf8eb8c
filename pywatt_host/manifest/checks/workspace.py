"""Checks of a workspace beyond its types: how its parts fit each other and the folder that it is in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.checks.stores import StoreChecks
from pywatt_host.manifest.checks.tracing import TracingChecks
from pywatt_host.manifest.model.workspace import Workspace, WorkspaceModule
from pywatt_host.manifest.problems import KeyPath, Report, Severity, cut_list, near_miss, quote
from pywatt_host.manifest.schema.typing import locate
from pywatt_host.manifest.source import DEFAULT_NAME
from pywatt_host.manifest.values.names import script_of
from pywatt_host.manifest.yaml.node import Node


class WorkspaceChecks:
    """Reports the parts of a workspace that do not fit together. `tree` has the place of each part, `left_out` what is
    unknown."""

    def __init__(self, workspace: Workspace, tree: Node, report: Report, left_out: LeftOut) -> None:
        self._workspace = workspace
        self._left_out = left_out
        self._tree = tree
        self._report = report

    def check(self) -> None:
        """Run all checks."""
        self._sources()
        StoreChecks(self._workspace, self._add, self._left_out.holds).check()
        TracingChecks(self._workspace, self._add, self._left_out.holds).check()
        for name, module in self._workspace.modules.items():
            self._dependencies(name, module)
            self._paths(name, module)
        self._cycles()

    def _add(self, path: KeyPath, code: str, message: str, hint: str = "", severity: Severity = "error") -> None:
        if self._left_out.holds(path):
            return
        node, written, real = locate(self._tree, path)
        parent, _, _ = locate(self._tree, path[:-1])
        # A mapping has no place worth showing, so the problem is at its key, or at its name in a list.
        mark = (parent.keys or {}).get(str(path[-1])) if isinstance(node.value, dict) else None
        self._report.add(
            node.problem((*written, *path[len(real) :]), code, message, hint, mark=mark, severity=severity)
        )

    def _sources(self) -> None:
        seen: set[str] = set()
        for number, source in enumerate(self._workspace.secrets.sources or ()):
            path: KeyPath = ("secrets", "sources", number, "kind")
            if source.kind == "orchestrator":
                hint = "use a source that has the secrets: env, dotenv, directory, file, command or vault"
                self._add(path, "conflict", "the orchestrator cannot ask itself for secrets", hint)
            elif source.kind is not None and source.kind in seen:
                self._add(path, "conflict", f"the source `{source.kind}` is listed twice", "remove one of them")
            seen.add(source.kind or "")

    def _dependencies(self, name: str, module: WorkspaceModule) -> None:
        declared = [*self._workspace.modules, *self._left_out.names(("modules",))]
        for other in module.depends_on:
            path: KeyPath = ("modules", name, "depends_on", other)
            if other == name:
                self._add(path, "dependency-cycle", f"{quote(name)} depends on itself", "remove it")
            elif other not in declared:
                meant = near_miss(other, [each for each in declared if each != name])
                hint = f'did you mean "{meant}"?' if meant else f"declared: {cut_list(declared)}"
                self._add(path, "unknown-module", f"the module {quote(other)} is not declared", hint)

    def _cycles(self) -> None:
        for cycle in _cycles({name: list(module.depends_on) for name, module in self._workspace.modules.items()}):
            path: KeyPath = ("modules", cycle[0], "depends_on", cycle[1])
            message = f"the modules wait for each other: {' -> '.join(cycle)}"
            self._add(path, "dependency-cycle", message, "remove one of these dependencies")

    def _paths(self, name: str, module: WorkspaceModule) -> None:
        """Check that manifests and working directories exist."""
        if module.manifest is not None:
            path: KeyPath = ("modules", name, "manifest")
            found = self._workspace.resolve(module.manifest)
            script = script_of(os.fspath(found))
            if _is(found, folder=True):
                found = found / DEFAULT_NAME
            elif script is not None:
                found = script.path
            if not _is(found, folder=False):
                self._add(path, "no-file", f"manifest not found: {self._shown(path, module.manifest)}", _nearby(found))
        else:
            path = ("modules", name, "working_dir")
            found = self._workspace.resolve(module.working_dir)
            if not _is(found, folder=True):
                self._add(
                    path, "no-folder", f"folder not found: {self._shown(path, module.working_dir)}", _nearby(found)
                )

    def _shown(self, path: KeyPath, value: str) -> str:
        node, _, _ = locate(self._tree, path)
        return node.shown() if node.template is not None else quote(value)


def _is(path: Path, *, folder: bool) -> bool:
    try:
        return path.is_dir() if folder else path.is_file()
    except (OSError, ValueError):  # the name is not valid: too long, or with a NUL
        return False


def _nearby(path: Path) -> str:
    try:
        meant = near_miss(path.name, [each.name for each in path.parent.iterdir()])
    except (OSError, ValueError):
        meant = None
    return f'did you mean "{meant}"?' if meant else "the path is relative to the folder of this file"


def _cycles(edges: Mapping[str, Sequence[str]]) -> Iterator[list[str]]:
    """Find the cycles of a graph, each once. A cycle of one node is not included."""
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
