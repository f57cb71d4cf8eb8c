"""Several applications of NGINX Unit that one process cannot serve: each becomes a module of a workspace, and the
gateway sends each path to its module, unchanged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.json_nodes import Node
from pywatt_host.imports.unit_apps import app_section, process_settings
from pywatt_host.imports.unit_plan import Plan
from pywatt_host.imports.unit_server import put_listeners

# Prefixes, exact paths, and methods (none: all).
Paths: TypeAlias = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
_NAME = re.compile(r"[^A-Za-z0-9_-]+")
# Every path. The gateway serves `/{path:path}` alone only below the name of its module.
_EVERYTHING = ["/", "/{first}/{rest:path}"]
_FILES = "static-files"
_ALL_METHODS = ["*", "WEBSOCKET"]


def workspace(draft: Draft, plan: Plan, group: Mapping[str, Node], names: set[str]) -> list[Draft]:
    """The workspace, and a manifest for each application and one for the folders. `draft` has the settings of the
    server, `names` the names of files that are taken."""
    first = next(iter(group.values()))
    gateway = _gateway(draft, plan, group)
    number = draft.name.removesuffix(".yaml")
    name = "wattson.yaml" if number == "pywatt" else f"{number}.wattson.yaml"
    whole = replace(draft, name=name, data={"gateway": gateway, "modules": {}}, secrets=[], secret_sources=[])
    modules: dict[str, Any] = whole.data["modules"]
    drafts = [whole]
    taken = {prefix.strip("/").partition("/")[0] for place in plan.apps for prefix in place.prefixes}
    taken |= {prefix.strip("/").partition("/")[0] for prefix in plan.folders}
    for places in plan.distinct.values():
        app = places[0].app
        base = app.name + (f"-{app.target.path.rpartition('.')[2]}" if app.target is not None else "")
        id = _id(base, taken, names)
        own = _module(draft, id)
        own.data["app"] = app_section(app, own)
        process_settings(app, own)
        if app.prefix:
            own.put("app.route_prefix", app.prefix)
        own.data["endpoints"] = endpoints([(place.prefixes, place.exact, place.methods) for place in places])
        modules[id] = {"manifest": own.name}
        drafts.append(own)
    if plan.folders:
        id = _id(_FILES, taken, names)
        own = _module(draft, id)
        own.data["mounts"] = list(plan.folders.values())
        own.data["endpoints"] = endpoints([((prefix,), (), ("GET",)) for prefix in plan.folders])
        modules[id] = {"manifest": own.name}
        drafts.append(own)
    setting = Setting(first.path, None, first.place)
    whole.note(
        "todo", setting, "several applications became modules of a workspace", f"start them with: pywatt-host up {name}"
    )
    whole.differs(
        setting,
        "the gateway also serves each module below its name, and /health itself",
        "choose other module ids in the workspace if a path begins with one",
    )
    return drafts


def _module(draft: Draft, id: str) -> Draft:
    """A manifest for one module, with the settings of the server that are not those of its listeners."""
    server = {
        key: dict(value) if isinstance(value, dict) else value for key, value in draft.data.get("server", {}).items()
    }
    data: dict[str, Any] = {"module": {"id": id}, "server": {**server, "paths": "lenient"}}
    if "logging" in draft.data:
        data["logging"] = dict(draft.data["logging"])
    return replace(draft, name=f"{id}.yaml", data=data, findings=[], secrets=[], secret_sources=[])


def _gateway(draft: Draft, plan: Plan, group: Mapping[str, Node]) -> dict[str, Any]:
    """The settings of the gateway out of the listeners: one TCP address, its names and its certificate."""
    listening = replace(draft, data={})
    put_listeners(listening, group)
    listen = listening.get("server.listen")
    some = listen if isinstance(listen, list) else [listen]
    nodes = list(group.values())
    found: dict[str, Any] = {}
    for entry, node in zip(some, nodes, strict=False):
        address = entry.get("address") if isinstance(entry, dict) else entry
        tls = entry.get("tls") if isinstance(entry, dict) else listening.get("server.tls")
        if not isinstance(address, str) or found:
            hint = "put a proxy in front, or write a workspace for each address"
            draft.lost(Setting(node.path, None, node.place), "the gateway listens on one TCP address", hint)
            continue
        found["listen"] = address
        if isinstance(tls, dict):
            found["tls"] = tls
    found["allowed_hosts"] = list(plan.hosts) or ["*"]
    for key in ("trusted_proxies", "limits"):
        if listening.get(f"server.{key}"):
            draft.lost(
                Setting(nodes[0].path, None, nodes[0].place),
                f"the gateway has no key {key}",
                "put it into the manifests where it matters",
            )
    return found


def _id(name: str, taken: set[str], names: set[str]) -> str:
    """The id of a module. It is no first segment of a path that is served, since the gateway serves modules there."""
    plain = _NAME.sub("-", name).strip("-_")[:50] or "app"
    found, number = plain, 2
    if found in taken:
        plain = found = f"{plain}-app"
    while found in taken or f"{found}.yaml" in names:
        found, number = f"{plain}-{number}", number + 1
    taken.add(found)
    names.add(f"{found}.yaml")
    return found


def endpoints(places: Sequence[Paths]) -> list[dict[str, Any]]:
    """The endpoints for these paths."""
    found: dict[str, dict[str, Any]] = {}
    for prefixes, exact, methods in places:
        below = [
            path for prefix in prefixes for path in ([f"{prefix}/{{path:path}}"] if prefix != "/" else _EVERYTHING)
        ]
        for path in [*below, *exact]:
            entry = found.setdefault(path, {"path": path, "methods": []})
            entry["methods"] += [each for each in list(methods) or _ALL_METHODS if each not in entry["methods"]]
    return list(found.values())
