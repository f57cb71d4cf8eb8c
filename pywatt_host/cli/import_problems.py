"""What importing the applications of a manifest brings up, as problems of the manifest."""

from __future__ import annotations

from dataclasses import replace

from pywatt_host.cli.inspection import Inspection, Request, inspect_apps
from pywatt_host.cli.inspection.partial import uninspectable
from pywatt_host.cli.inspection.result import Fault
from pywatt_host.cli.options import progress
from pywatt_host.cli.terminal import echo
from pywatt_host.manifest import Loaded, Problem
from pywatt_host.manifest.load import Examined, parsed_path
from pywatt_host.manifest.model import AutoEndpoints
from pywatt_host.manifest.problems import Severity

_NAMED_ROUTES = 3  # in a warning about several


def import_problems(asked: Request, examined: Examined, loaded: Loaded) -> list[Problem]:
    """The problems that importing the applications brings up, as far as they do not follow from those of the
    manifest."""
    left_out, skipped = examined.left_out, uninspectable(examined)
    if loaded.manifest.app is None and len(skipped) == len(loaded.manifest.mounts):
        return []
    asked = replace(asked, partial=examined.faulty, skipped=skipped)
    found = inspect_apps(asked, progress=progress)
    if found.failure is not None:
        node, path = loaded.node_at(found.failure.key)
        unusable = node.problem(path, "app-unusable", found.failure.message, found.failure.hint)
        return [replace(unusable, detail=found.failure.output)]
    problems: list[Problem] = []
    for seen in found.apps:
        fault = seen.fault
        if fault is not None and fault.arguments:
            problems += _arguments(loaded, seen.key, fault)
        elif fault is not None:
            node, path = loaded.node_at(f"{seen.key}.import_path")
            code = "app-missing-dependency" if fault.missing_dependency else f"app-{fault.reason}"
            severity: Severity = "warning" if fault.missing_dependency else "error"
            problem = node.problem(path, code, fault.message, fault.hint, severity=severity)
            problems.append(replace(problem, detail=fault.trace))
        elif seen.partial:
            echo(
                f"{seen.name}: its table of routes is partial, and compared as far as it goes: {seen.partial}", err=True
            )
    if not left_out.touches(("endpoints",)) and not skipped:
        problems += _drift(loaded, found)
    if not left_out.touches(("metrics",)) and not left_out.touches(("health",)):
        for hidden in found.hidden:
            node, path = loaded.node_at(hidden.key)
            problems.append(node.problem(path, "drift-hidden", str(hidden), hidden.hint, severity="warning"))
    return problems


def _arguments(loaded: Loaded, key: str, fault: Fault) -> list[Problem]:
    """The arguments that do not fit the factory, each at its own place."""
    problems = []
    for below, text, hint in fault.arguments:
        node, path = loaded.node_at((*parsed_path(key), "args", *below))
        missing = path[-len(below) :] != tuple(below)
        shown = (*path, *below) if missing and path[-1:] == ("args",) else path
        problems.append(node.problem(shown, "app-factory-arguments", f"this {text}", hint))
    return problems


def _drift(loaded: Loaded, found: Inspection) -> list[Problem]:
    """Endpoints that the application does not have, routes that are not declared, and rules that protect nothing."""
    problems: list[Problem] = []
    rows = found.rows
    declared = [row for row in rows if row.state in ("served", "missing", "unknown")]
    if isinstance(loaded.manifest.endpoints, AutoEndpoints):
        for rule in found.unmatched:
            node, path = loaded.node_at(rule.key)
            problems.append(node.problem(path, "drift-rule", str(rule), rule.hint, severity="warning"))
        return problems
    hints = {rule.key: rule.hint for rule in found.unmatched}
    for number, row in enumerate(declared):
        if row.state == "missing":
            node, path = loaded.node_at(("endpoints", number, "path"))
            message = f"the application has no route for {' '.join(row.methods)} {row.path}"
            hint = hints.get(f"endpoints[{number}].path", "run `pywatt-host routes` to see its routes")
            problems.append(node.problem(path, "drift-missing", message, hint, severity="warning"))
    undeclared: dict[str, list[str]] = {}
    for row in rows:
        if row.state == "undeclared":
            undeclared.setdefault(row.app, []).append(f"{' '.join(row.methods)} {row.path}")
    node, path = loaded.node_at("endpoints")
    for app, routes in undeclared.items():
        message, hint = f"{app} has {routes[0]}, which is not declared and therefore not served", "declare it"
        if len(routes) > 1:
            shown = ", ".join(routes[:_NAMED_ROUTES])
            more = f" and {len(routes) - _NAMED_ROUTES} more" if len(routes) > _NAMED_ROUTES else ""
            message = f"{app} has {len(routes)} routes that are not declared and therefore not served: {shown}{more}"
            hint = "declare those that are needed; `pywatt-host routes` lists all"
        problems.append(node.problem(path, "drift-undeclared", message, hint, severity="warning"))
    return problems
