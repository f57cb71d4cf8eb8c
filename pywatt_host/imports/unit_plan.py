"""What one listener of NGINX Unit serves: which application or folder has which paths, in Unit's order."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from pywatt_host.imports import common
from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Kind
from pywatt_host.imports.json_nodes import Node
from pywatt_host.imports.unit_apps import PythonApp, python_app
from pywatt_host.imports.unit_routes import Routes, Step, target_of
from pywatt_host.manifest.values.names import PREFIX_PATTERN
from pywatt_host.manifest.values.paths import covers

_SHARE = re.compile(r"([^$`]*)\$uri\Z")
_PREFIX = re.compile(PREFIX_PATTERN[1:-1] + r"\Z")
_MAX_AGE = re.compile(r"(?:public,\s*)?max-age=(\d{1,9})\Z")
_NOT_FOUND = 404
_CLIENT_ERRORS = 400
_INDEX = "index.html"
_LINKS = ("chroot", "follow_symlinks", "traverse_mounts")
_PROXY_HINT = "put a proxy in front, or let the application do it"


@dataclass(frozen=True, slots=True)
class AppPlace:
    """An application at some paths."""

    app: PythonApp
    prefixes: tuple[str, ...]
    exact: tuple[str, ...]
    methods: tuple[str, ...]

    @property
    def everywhere(self) -> bool:
        return "/" in self.prefixes and not self.methods

    @property
    def key(self) -> tuple[str, str]:
        """The same for places of the same application."""
        return self.app.name, self.app.target.path if self.app.target is not None else ""


@dataclass(slots=True)
class Plan:
    """What a listener serves: applications, and folders by prefix."""

    apps: list[AppPlace] = field(default_factory=list)
    folders: dict[str, dict[str, Any]] = field(default_factory=dict)
    hosts: tuple[str, ...] = ()

    @property
    def distinct(self) -> dict[tuple[str, str], list[AppPlace]]:
        """The places of each application, in order."""
        found: dict[tuple[str, str], list[AppPlace]] = {}
        for place in self.apps:
            found.setdefault(place.key, []).append(place)
        return found


class Planner:
    """Makes the plan for what one listener passes requests to."""

    def __init__(self, config: Node, draft: Draft) -> None:
        self._config = config
        self._draft = draft
        self._covered: list[str] = []
        self._headers: list[tuple[Node, dict[str, Any], bool]] = []
        self._actions: dict[str, str] = {}  # the paths of the actions of the folders, by prefix
        self._plan = Plan()

    def plan(self, passed: Node) -> Plan:
        """The plan of a `pass`."""
        steps = list(Routes(self._config, self._draft).steps(passed))
        chosen = self._hosts(steps)
        for step in chosen:
            self._step(step)
        self._response_headers()
        return self._plan

    def note(self, kind: Kind, node: Node, message: str, hint: str = "") -> None:
        self._draft.note(kind, Setting(node.path, None, node.place), message, hint)

    # Hosts and order --------------------------------------------------------------------------------------------------

    def _hosts(self, steps: list[Step]) -> list[Step]:
        """The steps for the names that the manifest serves: one set of names, or every name."""
        groups = list(dict.fromkeys(step.hosts for step in steps if _serves(step)))
        if len(groups) <= 1:
            self._plan.hosts = groups[0] if groups else ()
        elif () not in groups:
            self._plan.hosts = groups[0]
        if self._plan.hosts:
            self.note(
                "differs",
                next(filter(_serves, steps)).action,
                "another Host gets the status 421, and not 404",
                "server.allowed_hosts",
            )
        kept = [step for step in steps if step.hosts == self._plan.hosts or not _serves(step)]
        for step in steps:
            if step not in kept:
                message = f"the manifest does not tell {', '.join(step.hosts)} from other hosts"
                self.note("lost", step.action, message, "run a host for each, behind a proxy that chooses by name")
                step.action.plain()
        return kept

    def _step(self, step: Step) -> None:
        open_ = [each for each in step.prefixes if not any(covers(done, each) for done in self._covered)]
        exact = [
            each for each in step.exact if not any(covers(done, each.rstrip("/") or "/") for done in self._covered)
        ]
        if not open_ and not exact:
            self.note("lost", step.action, "an earlier step already answers what this one matches", "remove it")
            step.action.plain()
            return
        self._action(Step(tuple(open_), tuple(exact), step.methods, step.hosts, step.action))
        if not step.methods and step.hosts == self._plan.hosts:
            self._covered += open_

    # Actions ----------------------------------------------------------------------------------------------------------

    def _action(self, step: Step) -> None:
        action = step.action
        action.used = True
        rewrite = action.child("rewrite")
        if rewrite is not None:
            self.note("lost", rewrite, "the path reaches the application as the client sent it", _PROXY_HINT)
        served = True
        if (passed := action.child("pass")) is not None:
            served = self._pass(step, passed)
        elif (share := action.child("share")) is not None:
            served = self._share(step, share)
        elif (returned := action.child("return")) is not None:
            served = False
            self._return(step, returned)
        elif (proxy := action.child("proxy")) is not None:
            served = False
            self.note(
                "lost", proxy, "the host passes no requests to other servers", "put a proxy in front for these paths"
            )
        headers = action.child("response_headers")
        if headers is not None:
            self._headers.append((headers, headers.plain() or {}, served))

    def _pass(self, step: Step, passed: Node) -> bool:
        target = target_of(passed.text())
        if target is None:
            upstream = passed.text().startswith("upstreams")
            message = (
                "the host passes no requests to other servers" if upstream else "the target depends on the request"
            )
            self.note("lost", passed, message, "put a proxy in front for these paths")
            return False
        app = python_app(self._config.child("applications"), target, passed)
        if app is None:
            kind = app_type(self._config, target.app)
            message = f"the application {target.app[:60]} is of the type {kind}, and the host serves Python"
            self.note("lost", passed, message, "leave it where it is, behind a proxy that chooses by path")
            return False
        self._plan.apps.append(AppPlace(app, step.prefixes, step.exact, step.methods))
        return True

    def _return(self, step: Step, node: Node) -> None:
        code = node.whole()
        location = step.action.child("location")
        if code == _NOT_FOUND and step.catches_all:
            return
        where = ", ".join((*step.prefixes, *step.exact))
        to = f" to {location.text()[:80]}" if location is not None else ""
        message = f"the host does not answer {where} with {code}{to} itself"
        if code >= _CLIENT_ERRORS:
            self.note("exposed", node, f"{message}: requests that it refused reach the application", _PROXY_HINT)
        else:
            self.note("lost", node, message, _PROXY_HINT)

    # Folders ----------------------------------------------------------------------------------------------------------

    def _share(self, step: Step, share: Node) -> bool:
        action, texts = step.action, [each.text() for each in share.items()]
        match = _SHARE.match(texts[0]) if texts else None
        served = False
        if match is None:
            message = "a mount is a folder below a prefix: the path has to end with $uri and have no other variable"
            self.note("lost", share, message, "add a mount, or serve the file from the application")
        else:
            for more in texts[1:]:
                self.note(
                    "lost", share, f"a mount has one folder, and {more[:80]} is a further one", "add a mount of its own"
                )
            for path in step.exact:
                message = f"{path} is one file, and a mount is a folder"
                self.note("lost", share, message, "serve it from the application")
            for prefix in step.prefixes:
                served = self._mount(step, share, match[1], prefix) or served
        fallback = action.child("fallback")
        if fallback is not None:
            self._fallback(step, fallback, served)
        self._share_options(action)
        return served

    def _mount(self, step: Step, share: Node, root: str, prefix: str) -> bool:
        fallback = step.action.child("fallback")
        passes = fallback is not None and "pass" in fallback.value
        if prefix == "/" and passes:
            return self._existing(share, root)
        folder = f"{root.rstrip('/')}{prefix}" if prefix != "/" else root.rstrip("/") or "/"
        self._add_folder(step.action, prefix, folder)
        return True

    def _existing(self, share: Node, root: str) -> bool:
        """Unit looks for a file first and asks the application then. The folders that exist become mounts."""
        base = self._draft.folder / root
        try:
            with os.scandir(base) as found:
                shown_entries = sorted(
                    (each for each in found if not each.name.startswith(".")), key=attrgetter("name")
                )
            folders = [each.name for each in shown_entries if os.path.isdir(each) and _PREFIX.match(f"/{each.name}")]
            files = [each.name for each in shown_entries if os.path.isfile(each)]
        except (OSError, ValueError):
            message = f"the host does not look for files in {root[:80]} before it asks the application"
            self.note("lost", share, message, f"add a mount for each folder in it, such as /static: {root}/static")
            return False
        for name in folders:
            self._add_folder(share, f"/{name}", f"{root.rstrip('/')}/{name}")
        if folders:
            shown = ", ".join(folders)[:200]
            message = f"the folders that exist there became mounts ({shown}): a file that is missing in them is 404"
            self.note("differs", share, message, "add a mount for a folder that is added later")
        if files:
            message = f"files directly in {root[:80]} are not served: {', '.join(files)[:200]}"
            self.note(
                "lost", share, message, "move them into a folder with a mount, or serve them from the application"
            )
        return bool(folders)

    def _add_folder(self, node: Node, prefix: str, folder: str) -> None:
        if prefix not in self._plan.folders:
            mount: dict[str, Any] = {"route_prefix": prefix, "directory": self._draft.path(folder)}
            index = node.child("index") if isinstance(node.value, dict) else None
            if index is None or index.value == _INDEX:
                mount["html"] = True
            self._plan.folders[prefix] = mount
            self._actions[prefix] = node.path.removesuffix(".share")

    def _fallback(self, step: Step, fallback: Node, served: bool) -> None:
        passed = fallback.child("pass")
        returned = fallback.child("return")
        everything = "/" in step.prefixes
        if passed is not None and everything:
            inner = Step(step.prefixes, step.exact, step.methods, step.hosts, fallback)
            self._action(inner)
        elif passed is not None and not served:
            self._action(Step(step.prefixes, step.exact, step.methods, step.hosts, fallback))
        elif returned is not None and returned.value == _NOT_FOUND:
            return
        else:
            fallback.plain()
            self.note("lost", fallback, "a file that is missing in a mount is 404", _PROXY_HINT)

    def _share_options(self, action: Node) -> None:
        types = action.child("types")
        if types is not None:
            types.plain()
            message = "a mount serves files of every type, also those that it left out"
            self.note("exposed", types, message, "move other files out of the folder")
        index = action.child("index")
        if index is not None and index.value != _INDEX:
            self.note("lost", index, "the page of a folder is index.html", "rename it, and add html: true to the mount")
        for key in _LINKS:
            found = action.child(key)
            if found is not None:
                message = "the host follows links as long as they stay in the folder"
                self.note("differs", found, message)

    # Headers ----------------------------------------------------------------------------------------------------------

    def _response_headers(self) -> None:
        """Headers of all actions alike become `server.headers`; `Cache-Control` of folders alone becomes `cache`."""
        for node, headers, served in self._headers:
            everywhere = all(others == headers for _, others, _ in self._headers) and self._on_every_action()
            for name, value in headers.items():
                setting = Setting(f"{node.path}.{name}", value, node.place)
                age = _MAX_AGE.match(value) if name.lower() == "cache-control" and isinstance(value, str) else None
                if not served:
                    self._draft.lost(setting, "the step that has it was not taken over")
                elif age is not None and self._folders_of(node):
                    for mount in self._folders_of(node):
                        mount["cache"] = f"{age[1]}s"
                elif value is None:
                    self._draft.lost(setting, "the host removes no header of the application", _PROXY_HINT)
                elif isinstance(value, str) and "$" not in value and "`" not in value and everywhere:
                    common.header(self._draft, setting, name, value)
                else:
                    message = "server.headers are headers of every response, and have no variables"
                    self._draft.lost(setting, message, "let the application send it, or add it to server.headers")

    def _on_every_action(self) -> bool:
        places = len(self._plan.apps) + bool(self._plan.folders)
        return len([each for each in self._headers if each[2]]) >= places

    def _folders_of(self, node: Node) -> list[dict[str, Any]]:
        """The mounts of the action that has these headers."""
        action = node.path.rpartition(".")[0]
        return [mount for prefix, mount in self._plan.folders.items() if self._actions.get(prefix) == action]


def _serves(step: Step) -> bool:
    """Whether the action of a step serves something, and does not only answer."""
    return isinstance(step.action.value, dict) and bool({"pass", "share"} & step.action.value.keys())


def app_type(config: Node, name: str) -> str:
    """The type of an application, which counts as looked at with all that it has."""
    applications = config.child("applications")
    node = applications.child(name) if applications is not None else None
    if node is None:
        return "unknown"
    found = node.plain()
    return str(found.get("type", "unknown"))[:40] if isinstance(found, dict) else "unknown"
