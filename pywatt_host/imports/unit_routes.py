"""The routes of NGINX Unit: what each step matches and does, as far as a manifest can say it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Kind, UnreadableError
from pywatt_host.imports.json_nodes import Node
from pywatt_host.manifest.values.names import METHODS, PREFIX_PATTERN

_PREFIX = re.compile(PREFIX_PATTERN[1:-1] + r"\Z")
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
_CLIENT_ERRORS = 400
_MAX_HOPS = 20  # from one route to another
_WRITE_ENDPOINTS = "write endpoints, or let the application do it"
_ACTIONS = ("pass", "share", "return", "proxy")


@dataclass(frozen=True, slots=True)
class Target:
    """An application, or one of its targets."""

    app: str
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step that a manifest can express: the paths that it matches (`/` is every path), its methods (empty: all) and
    hosts (empty: all), and its action."""

    prefixes: tuple[str, ...]
    exact: tuple[str, ...]
    methods: tuple[str, ...]
    hosts: tuple[str, ...]
    action: Node

    @property
    def catches_all(self) -> bool:
        return "/" in self.prefixes and not self.methods


@dataclass(slots=True)
class Routes:
    """The routes of a configuration. `draft` collects what cannot be taken over."""

    config: Node
    draft: Draft
    seen: set[str] = field(default_factory=set)

    def note(self, kind: Kind, node: Node, message: str, hint: str = "") -> None:
        """Add a finding about a value, once for all listeners that use the route."""
        self.draft.note(kind, Setting(node.path, None, node.place), message, hint)

    def lost(self, node: Node, message: str, hint: str = "") -> None:
        self.note("lost", node, message, hint)

    def steps(self, passed: Node, hops: int = 0) -> Iterator[Step]:
        """The steps of a `pass`. An application is one step that matches everything."""
        text = passed.text()
        kind, _, rest = text.partition("/")
        if hops > _MAX_HOPS:
            raise UnreadableError(passed.place, f"{passed.path}: the routes pass requests to each other in a circle")
        if kind != "routes" or _variable(text):
            action = Node({"pass": passed}, passed.line, passed.path.removesuffix(".pass"), passed.file, used=True)
            yield Step(("/",), (), (), (), action)
            return
        for node in self._listed(passed, unquote(rest)):
            node.used = True
            action_node = node.child("action")
            if action_node is None:
                raise UnreadableError(node.place, f"{node.path} has no action")
            step = self._step(node, action_node)
            if step is None:
                action_node.plain()
                continue
            inner = action_node.child("pass")
            if inner is not None and inner.text().partition("/")[0] == "routes" and not _variable(inner.text()):
                yield from self._inlined(step, inner, hops)
            else:
                yield step

    def _listed(self, passed: Node, name: str) -> list[Node]:
        routes = self.config.child("routes")
        if routes is None:
            raise UnreadableError(passed.place, f"{passed.path}: the configuration has no routes")
        if isinstance(routes.value, list):
            if name:
                raise UnreadableError(passed.place, f"{passed.path}: there is no route {name[:60]}")
            return routes.items()
        named = routes.child(name)
        if named is None:
            raise UnreadableError(passed.place, f"{passed.path}: there is no route {name[:60]}")
        return named.items()

    def _inlined(self, outer: Step, inner: Node, hops: int) -> Iterator[Step]:
        """The steps of a named route, for what the outer step matches."""
        for step in self.steps(inner, hops + 1):
            if outer.catches_all and not outer.hosts:
                yield step
            elif "/" in step.prefixes and not step.methods and not step.hosts:
                yield Step(outer.prefixes, outer.exact, outer.methods, outer.hosts, step.action)
            else:
                message = "a route inside of a route, both with conditions"
                self.lost(step.action, message, "write the conditions into one route, and import again")

    def _step(self, node: Node, action: Node) -> Step | None:
        """The step; None if the manifest cannot express its conditions."""
        match = node.child("match")
        conditions = match.children() if match is not None else {}
        prefixes: tuple[str, ...] = ("/",)
        exact: tuple[str, ...] = ()
        methods: tuple[str, ...] = ()
        hosts: tuple[str, ...] = ()
        for name, condition in conditions.items():
            plain = [each for each in condition.items() if isinstance(each.value, str)]
            texts = [each.value for each in plain] if len(plain) == len(condition.items()) else None
            if name == "uri" and texts is not None and (found := _paths(texts)) is not None:
                prefixes, exact, left = found
                if left:
                    self._partly(condition, action, left)
            elif name == "method" and texts is not None and all(each.upper() in METHODS for each in texts):
                methods = tuple(dict.fromkeys(each.upper() for each in texts))
            elif name == "host" and texts is not None and all(_HOST.match(each) for each in texts):
                hosts = tuple(texts)
            elif name == "scheme" and self._all_have(condition):
                continue
            else:
                condition.plain()
                self._skipped(node, action, name)
                return None
        if not set(action.value if isinstance(action.value, dict) else ()) & set(_ACTIONS) and not action.value.get(
            "rewrite"
        ):
            raise UnreadableError(action.place, f"{action.path} has none of {', '.join(_ACTIONS)}")
        return Step(prefixes, exact, methods, hosts, action)

    def _all_have(self, condition: Node) -> bool:
        """Whether the scheme is that of every listener."""
        listeners = self.config.child("listeners")
        tls = (
            {each.child("tls") is not None for each in listeners.children().values()}
            if listeners is not None
            else set()
        )
        return tls == {condition.value == "https"}

    def _partly(self, condition: Node, action: Node, patterns: list[str]) -> None:
        """Tell of patterns whose requests the step does not answer."""
        shown = ", ".join(patterns)[:80]
        message = f"a manifest has paths and prefixes, and no patterns like {shown}: the step does not answer these"
        self.note(_kind(action), condition, message, _WRITE_ENDPOINTS)

    def _skipped(self, node: Node, action: Node, name: str) -> None:
        does = next((f"{key} {action.value[key].value}" for key in _ACTIONS if key in action.value), "its action")
        reason = f"a manifest has no condition like {name}"
        if name == "uri":
            reason = "a manifest has paths and prefixes, and no patterns like this one"
        elif name in ("method", "host"):
            reason = f"a manifest has names here, and no patterns like this one of {name}"
        message = f"{reason}, so the step ({does[:80]}) does not exist"
        hint = "put a proxy in front that does it" if name != "uri" else _WRITE_ENDPOINTS
        if _kind(action) == "exposed":
            self.note("exposed", node, f"{message}: requests that it refused reach the application", hint)
        else:
            self.note("lost", node, f"{message}, unless a later step answers the same requests", hint)


def _kind(action: Node) -> Kind:
    """What it means that an action does not exist: that of a refusal leaves something open."""
    returned = action.value.get("return") if isinstance(action.value, dict) else None
    refuses = isinstance(returned, Node) and isinstance(returned.value, int) and returned.value >= _CLIENT_ERRORS
    return "exposed" if refuses else "lost"


def _variable(text: str) -> bool:
    return "$" in text or "`" in text


def _paths(patterns: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], list[str]] | None:
    """The prefixes and exact paths of patterns of `uri`, and the patterns that a manifest cannot express; None if it
    cannot express any, or if one of those excludes paths."""
    prefixes: list[str] = []
    exact: list[str] = []
    left: list[str] = []
    for pattern in patterns:
        if pattern in ("*", "/*", ""):
            prefixes.append("/")
            continue
        base = pattern.removesuffix("/*")
        if base != pattern and _PREFIX.match(base) and "*" not in base and "!" not in base:
            prefixes.append(base)
        elif _PREFIX.match(pattern.rstrip("/") or "/") and not set("*!~") & set(pattern):
            exact.append(pattern)
        else:
            left.append(pattern)
    if any(pattern.startswith("!") for pattern in left) or (left and not prefixes and not exact):
        return None
    return tuple(prefixes), tuple(each for each in exact if each.rstrip("/") not in prefixes), left


def target_of(text: str) -> Target | None:
    """The application of a `pass`; None if it is something else."""
    parts = [unquote(part) for part in text.split("/")]
    if parts[0] != "applications" or len(parts) not in (2, 3) or _variable(text):
        return None
    return Target(parts[1], parts[2] if len(parts) == 3 else None)
