"""The applications of NGINX Unit: those in Python become applications of a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywatt_host.imports.draft import Draft, Setting, import_path
from pywatt_host.imports.findings import Kind, UnreadableError
from pywatt_host.imports.json_nodes import Node
from pywatt_host.imports.unit_routes import Target

_PYTHON = re.compile(r"python(\s*3?(\.[\dx]+)*)?\Z")
_MAX_WORKERS = 512
_LOST = {
    "user": ("the host does not change its user", "set User= in the systemd unit, or USER in the Dockerfile"),
    "group": ("the host does not change its group", "set Group= in the systemd unit, or USER in the Dockerfile"),
    "isolation": ("the host isolates no processes", "use systemd (pywatt-host export systemd) or a container"),
    "stdout": ("output goes to standard error", "collect it with systemd or the container"),
    "stderr": ("output goes to standard error", "collect it with systemd or the container"),
    "thread_stack_size": ("the size of the stacks of threads cannot be set", ""),
}


@dataclass(frozen=True, slots=True)
class PythonApp:
    """One application, or one of its targets, in Python. `node` is the application, `target` has what a target
    overrides."""

    name: str
    node: Node
    target: Node | None

    def setting(self, key: str) -> Node | None:
        """The value of a key: of the target, if it has one."""
        own = self.target.child(key) if self.target is not None else None
        shared = self.node.child(key)
        return own if own is not None else shared

    @property
    def prefix(self) -> str:
        """The prefix that Unit takes off the path (SCRIPT_NAME, root_path); empty for none."""
        found = self.setting("prefix")
        return found.text().rstrip("/") if found is not None else ""


def python_app(applications: Node | None, target: Target, passed: Node) -> PythonApp | None:
    """The application that a `pass` names; None if it is in another language. Raises UnreadableError if there is no
    such application."""
    node = applications.child(target.app) if applications is not None else None
    if node is None:
        raise UnreadableError(passed.place, f"{passed.path}: there is no application {target.app[:60]}")
    kind = node.child("type")
    if kind is None or not _PYTHON.match(kind.text().strip()):
        return None
    named: Node | None = None
    targets = node.child("targets")
    if target.target is not None:
        named = targets.child(target.target) if targets is not None else None
        if named is None:
            raise UnreadableError(passed.place, f"{passed.path}: {target.app[:60]} has no target {target.target[:60]}")
    return PythonApp(target.app, node, named)


def app_section(app: PythonApp, draft: Draft) -> dict[str, Any]:
    """The keys of `app` or of a mount, without the prefix."""
    module, callable_ = app.setting("module"), app.setting("callable")
    if module is None:
        raise UnreadableError(app.node.place, f"{app.node.path} has no module")
    name = callable_.text() if callable_ is not None else "application"
    path = import_path(f"{module.text()}:{name}", "application")
    if path is None:
        raise UnreadableError(module.place, f"{module.path}: {module.text()[:60]}:{name[:60]} is not module:attribute")
    inner = Draft(draft.folder, draft.destination, draft.environ, name=draft.name, findings=draft.findings)
    inner.put("app.import_path", path)
    protocol = app.setting("protocol")
    if protocol is not None:
        inner.put("app.interface", protocol.text())
    factory = app.setting("factory")
    if factory is not None and factory.value is True:
        inner.put("app.factory", True)
    _folder(app, module.text(), inner)
    threads = app.node.child("threads")
    if protocol is None or protocol.text() != "asgi":
        # Unit runs one request at a time in each process by default.
        inner.put("app.threads", min(1024, max(1, threads.whole())) if threads is not None else 1)
    elif threads is not None and threads.whole() > 1:
        _note(inner, "differs", threads, "an ASGI application runs in one event loop for each worker", "server.workers")
    _environment(app, inner)
    for key, (message, hint) in _LOST.items():
        found = app.node.child(key)
        if found is not None:
            found.plain()
            _note(inner, "lost", found, message, hint)
    home = app.node.child("home")
    if home is not None:
        hint = f"install pywatt-host there, and start {home.text()}/bin/pywatt-host"
        _note(inner, "todo", home, "the host uses the environment that it is installed in", hint)
    draft.secrets += [each for each in inner.secrets if each not in draft.secrets]
    section: dict[str, Any] = inner.data["app"]
    return section


def process_settings(app: PythonApp, draft: Draft) -> None:
    """Set how many processes serve, and their limits."""
    processes = app.node.child("processes")
    if processes is not None and isinstance(processes.value, dict):
        values = processes.children()
        most = values["max"].whole() if "max" in values else 1
        draft.put("server.workers.count", max(1, min(_MAX_WORKERS, most)))
        _note(
            draft,
            "differs",
            processes,
            f"the number of processes is fixed: it became the maximum, {most}",
            "server.workers",
        )
    elif processes is not None and processes.whole() > 1:
        draft.put("server.workers.count", min(_MAX_WORKERS, processes.whole()))
    limits = app.node.child("limits")
    for name, node in (limits.children() if limits is not None else {}).items():
        setting = Setting(node.path, node.value, node.place)
        if name == "timeout":
            draft.put_seconds("server.timeouts.request", setting, off_at_zero=True)
            draft.differs(setting, "the status is 504, and not 503, and the thread of the request goes on")
        elif name == "requests" and node.whole():
            draft.put_count("server.workers.recycle.requests", setting, 10**9)
        elif name != "requests":
            node.plain()
            draft.lost(setting, "the host has no such limit")


def _folder(app: PythonApp, module: str, draft: Draft) -> None:
    directory = app.node.child("working_directory")
    if directory is not None:
        hint = f"start pywatt-host in {directory.text()}, if the application opens files by relative paths"
        _note(draft, "differs", directory, "the host does not change the working directory", hint)
        draft.folder = draft.folder / directory.text()
    path = app.setting("path")
    folders = [each.text() for each in path.items()] if path is not None else []
    if not folders:
        draft.put_working_dir(directory.text() if directory is not None else ".")
        return
    package = module.partition(".")[0]
    home = next((each for each in folders if _has(draft.folder / each, package)), folders[0])
    for more in folders:
        if more != home and path is not None:
            message = f"app.working_dir is one folder, and {more[:80]} is a further one"
            _note(draft, "lost", path, message, "add it to PYTHONPATH")
    draft.put_working_dir(home)


def _has(folder: Path, package: str) -> bool:
    return os.path.isfile(folder / f"{package}.py") or os.path.isdir(folder / package)


def _environment(app: PythonApp, draft: Draft) -> None:
    variables = app.node.child("environment")
    for name, value in (variables.children() if variables is not None else {}).items():
        draft.put_variable(Setting(value.path, None, value.place), name, value.text())


def _note(draft: Draft, kind: Kind, node: Node, message: str, hint: str = "") -> None:
    draft.note(kind, Setting(node.path, None, node.place), message, hint)


def differing(apps: Mapping[str, PythonApp]) -> list[str]:
    """The settings of processes that differ between applications, which one process cannot have both of."""
    keys = ("environment", "home", "path", "working_directory", "user", "group", "processes", "limits")
    found = []
    for key in keys:
        nodes = [app.node.value.get(key) for app in apps.values()]
        values = [node.plain() if isinstance(node, Node) else None for node in nodes]
        if any(value != values[0] for value in values):
            found.append(key)
    return found
