"""NGINX Unit: the JSON of its control API, or a file. A listener becomes a manifest; one with several applications
becomes a manifest with mounts, or a workspace."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Finding, Place, UnreadableError
from pywatt_host.imports.inputs import read_text
from pywatt_host.imports.json_nodes import Node, parse_json
from pywatt_host.imports.unit_apps import PythonApp, app_section, differing, process_settings
from pywatt_host.imports.unit_plan import Plan, Planner, app_type
from pywatt_host.imports.unit_server import put_listeners, put_settings
from pywatt_host.imports.unit_workspace import endpoints, workspace

_REDIRECTS = (301, 302, 303, 307, 308)
_TO_HTTPS = re.compile(r"https://(\$host|\$\{host\})")
_NAME = re.compile(r"[^A-Za-z0-9_-]+")


def from_file(path: Path, name: str, draft: Draft) -> list[Draft]:
    """Make the manifests for a configuration in a file."""
    return from_text(read_text(path, name), name, draft)


def from_text(text: str, name: str, draft: Draft) -> list[Draft]:
    """Make the manifests for a configuration: `/config` of the control API, or the answer of its root."""
    root = parse_json(text, name)
    if not isinstance(root.value, dict):
        raise UnreadableError(root.place, "the configuration is not an object")
    root.used = True
    config = root.child("config") if "config" in root.value and "listeners" not in root.value else root
    assert config is not None
    if config is not root:
        for other in ("status", "certificates"):  # what the server says about itself
            found = root.child(other)
            if found is not None:
                found.plain()
    listeners = config.child("listeners")
    if listeners is None or not listeners.children():
        raise UnreadableError(
            config.place, "the configuration has no listeners", "give the JSON of /config of Unit's control API"
        )
    drafts = _sites(config, listeners, draft)
    _rest(root, config, drafts[0])
    return drafts


def _sites(config: Node, listeners: Node, draft: Draft) -> list[Draft]:
    """The manifests of all listeners. Listeners that pass to the same share one."""
    groups: dict[str, dict[str, Node]] = {}
    for address, node in listeners.children().items():
        passed = node.child("pass") or node.child("application")
        if passed is None:
            raise UnreadableError(node.place, f"{node.path} has no pass")
        groups.setdefault(passed.text(), {})[address] = node
    drafts: list[Draft] = []
    redirect: tuple[Draft, str, Node] | None = None
    names: set[str] = set()
    left_out: list[Finding] = []
    for text, group in groups.items():
        own = replace(draft, name=_name(text, names), data={}, findings=[], secrets=[], secret_sources=[])
        first = next(iter(group.values()))
        passed = first.child("pass") or Node(
            f"applications/{text}", first.line, f"{first.path}.application", first.file, used=True
        )
        found = _redirect(config, passed)
        if found is not None and len(groups) > 1:
            redirect = (own, next(iter(group)), found)
            names.discard(own.name)
            continue
        some = _site(config, passed, group, own, names)
        drafts += some
        if not some:
            left_out += own.findings
            names.discard(own.name)
    if not drafts:
        message = "no listener passes requests to a Python application or to a folder"
        raise UnreadableError(listeners.place, message, "; ".join(finding.message for finding in left_out)[:300])
    drafts[0].findings += left_out
    if redirect is not None:
        _put_redirect(drafts[0], *redirect)
    for other in drafts[1:]:
        if other.get("server.listen") is not None:
            hint = f"start a host for it too: pywatt-host run {other.name}"
            other.note(
                "todo",
                Setting("listen", None, Place(other.name)),
                "the listener is served by a manifest of its own",
                hint,
            )
    return drafts


def _name(text: str, names: set[str]) -> str:
    """The name of the manifest: pywatt.yaml for the first one."""
    plain = _NAME.sub("-", text.rpartition("/")[2]).strip("-") or "site"
    found = f"{plain}.yaml" if names else "pywatt.yaml"
    number = 2
    while found in names:
        found, number = f"{plain}-{number}.yaml", number + 1
    names.add(found)
    return found


def _redirect(config: Node, passed: Node) -> Node | None:
    """The action, if all that a listener does is to redirect to https."""
    kind, _, name = passed.text().partition("/")
    routes = config.value.get("routes")
    if kind != "routes" or not isinstance(routes, Node):
        return None
    listed = routes.value.get(name) if isinstance(routes.value, dict) else routes if not name else None
    steps = listed.value if isinstance(listed, Node) and isinstance(listed.value, list) else []
    if len(steps) != 1 or not isinstance(steps[0].value, dict) or steps[0].value.get("match") is not None:
        return None
    action = steps[0].value.get("action")
    plain = (
        {key: each.value for key, each in action.value.items()}
        if isinstance(action, Node) and isinstance(action.value, dict)
        else {}
    )
    if plain.get("return") in _REDIRECTS and _TO_HTTPS.match(str(plain.get("location"))):
        routes.used = listed.used = True  # type: ignore[union-attr]  # it is a node, since it has steps
        steps[0].plain()
        assert isinstance(action, Node)
        return action
    return None


def _put_redirect(target: Draft, own: Draft, address: str, action: Node) -> None:
    """Let the host redirect to its TLS listener."""
    setting = Setting(action.path, None, action.place)
    host, _, port = address.rpartition(":")
    if target.get("server.tls") is None or not port.isdecimal() or address.startswith("unix:"):
        target.lost(setting, "only a manifest with TLS listeners redirects to https", "server.tls.redirect")
        return
    target.put("server.tls.redirect", f":{port}" if host in ("*", "0.0.0.0") else address)
    target.differs(setting, "the status is 308")


def _site(config: Node, passed: Node, group: Mapping[str, Node], draft: Draft, names: set[str]) -> list[Draft]:
    """The manifests for what one `pass` of listeners serves; none if nothing of it can be taken over."""
    for node in group.values():
        node.used = True
    plan = Planner(config, draft).plan(passed)
    distinct = plan.distinct
    if not distinct and not plan.folders:
        node = next(iter(group.values()))
        message = "nothing that this listener serves can be taken over"
        draft.lost(Setting(node.path, None, node.place), message, "leave it where it is")
        for each in group.values():
            each.plain()
        return []
    put_settings(draft, config)
    if len(distinct) <= 1 and not (distinct and "/" in plan.folders):
        put_listeners(draft, group)
        _single(draft, plan)
    elif _can_mount(plan):
        put_listeners(draft, group)
        _mounted(draft, plan)
    else:
        return workspace(draft, plan, group, names)
    _hosts(draft, plan)
    return [draft]


def _hosts(draft: Draft, plan: Plan) -> None:
    if plan.hosts:
        draft.put("server.allowed_hosts", list(plan.hosts))
    draft.put("server.paths", "lenient")


def _single(draft: Draft, plan: Plan) -> None:
    """One application, or none, and folders."""
    draft.data["mounts"] = list(plan.folders.values())
    if not plan.apps:
        return
    app = plan.apps[0].app
    draft.data["app"] = app_section(app, draft)
    process_settings(app, draft)
    if app.prefix:
        draft.put("app.route_prefix", app.prefix)
        _outside(draft, app)
    if not any(place.everywhere for place in plan.apps):
        draft.data["endpoints"] = _endpoints(plan)
        if any(place.methods for place in plan.apps):
            node = app.node
            draft.differs(
                Setting(node.path, None, node.place), "another method gets the status 405, and not 404", "endpoints"
            )


def _outside(draft: Draft, app: PythonApp) -> None:
    node = app.setting("prefix")
    assert node is not None
    draft.differs(Setting(node.path, None, node.place), "a path outside of app.route_prefix is 404", "app.route_prefix")


def _endpoints(plan: Plan) -> list[dict[str, Any]]:
    """The endpoints for the paths of the application, and for the folders beside it."""
    folders = [((prefix,), (), ("GET",)) for prefix in plan.folders]
    return endpoints([*((place.prefixes, place.exact, place.methods) for place in plan.apps), *folders])


def _can_mount(plan: Plan) -> bool:
    """Whether one process can serve all applications with the paths that each expects: below its own prefix, or at the
    root."""
    apps = {f"{name}{target}": places[0].app for (name, target), places in plan.distinct.items()}
    if differing(apps):
        return False
    for places in plan.distinct.values():
        one = places[0]
        if len(places) > 1 or one.methods or one.exact or one.prefixes != (one.app.prefix or "/",):
            return False
    roots = [place for place in plan.apps if place.everywhere]
    return len(roots) + ("/" in plan.folders) <= 1


def _mounted(draft: Draft, plan: Plan) -> None:
    """Several applications in one process."""
    places = sorted(plan.apps, key=lambda place: not place.everywhere)
    first, *others = places
    draft.data["app"] = app_section(first.app, draft)
    process_settings(first.app, draft)
    if first.app.prefix:
        draft.put("app.route_prefix", first.app.prefix)
    mounts = []
    for place in others:
        section = app_section(place.app, draft)
        section.pop("env", None)  # the processes are the same, and so are their variables
        mounts.append({"route_prefix": place.app.prefix, **section})
    draft.data["mounts"] = [*mounts, *plan.folders.values()]


def _rest(root: Node, config: Node, draft: Draft) -> None:
    """Everything that was not looked at is told."""
    upstreams = config.child("upstreams")
    if upstreams is not None:
        upstreams.plain()
        draft.lost(
            Setting("upstreams", None, upstreams.place),
            "the host passes no requests to other servers",
            "put a proxy in front",
        )
    applications = config.child("applications")
    for name, node in (
        applications.value.items() if applications is not None and isinstance(applications.value, dict) else ()
    ):
        if not node.used:
            kind = app_type(config, name)
            draft.lost(
                Setting(node.path, None, node.place),
                f"no listener passes requests to it (type {kind})",
                "remove it, or import it with a listener",
            )
    for node in root.unused():
        draft.lost(Setting(node.path, None, node.place), "Unit does not use it, or the manifest has no such key")
