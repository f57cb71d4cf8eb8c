"""`validate`: reports every error of a manifest at once, and starts nothing."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pywatt_host.cli.certificates import Certificates
from pywatt_host.cli.options import Selection, coloured, progress
from pywatt_host.cli.terminal import echo, echo_json
from pywatt_host.cli.workspaces import check_modules, found_in, is_only_a_workspace, reader_of
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Loaded, Problem, as_json, render_github, render_text
from pywatt_host.manifest.load import Examined, environment, parsed_path
from pywatt_host.manifest.model import AutoEndpoints
from pywatt_host.manifest.problems import Report, Severity
from pywatt_host.manifest.source import DEFAULT_NAME, WORKSPACE_NAME
from pywatt_host.manifest.workspace import read_workspace, workspace_source
from pywatt_host.orchestrator.manifests import faults_of

if TYPE_CHECKING:
    from pywatt_host.cli.inspection import Inspection, Request
    from pywatt_host.cli.inspection.result import Fault


@click.command()
@click.argument("targets", metavar="[MANIFEST|WATTSON.YAML|FOLDER|FILE.py...]", nargs=-1)
@click.option("--profile", metavar="NAME", help="Profile of the manifest. Default: PYWATT_PROFILE.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key. Can be repeated.")
@click.option(
    "--env-file", metavar="FILE", type=click.Path(path_type=Path), help="Read variables for ${VAR} from FILE."
)
@click.option(
    "--format", "style", type=click.Choice(["text", "json", "github", "sarif"]), default="text", show_default=True
)
@click.option("--json", "as_json_list", is_flag=True, help="Same as --format json.")
@click.option("--no-import", is_flag=True, help="Check only the manifest and import no application.")
@click.option(
    "--live",
    is_flag=True,
    help="Also bind the listen addresses for a moment, fetch secrets, connect, and try out the certificates.",
)
@click.option("--allow-unset", is_flag=True, help="Report variables that are not set as warnings.")
@click.option("--strict", is_flag=True, help="Exit with code 2 on warnings as well.")
def validate(
    targets: tuple[str, ...],
    profile: str | None,
    overrides: tuple[str, ...],
    env_file: Path | None,
    style: str,
    as_json_list: bool,
    no_import: bool,
    live: bool,
    allow_unset: bool,
    strict: bool,
) -> int:
    """Check manifests and report every error at once, each with its line and a suggestion.

    `validate` then imports each application in a child process (it calls no factories) and compares its routes with the
    declared endpoints. A wattson.yaml is checked with the manifests of all its modules. Without an argument,
    `validate` checks ./pywatt.yaml, or ./wattson.yaml if there is no pywatt.yaml. The exit code is 0 if there is no
    error, else 2.

    \b
    Examples:
      pywatt-host validate
      pywatt-host validate --no-import --format github services/*/pywatt.yaml
      pywatt-host validate --format sarif > pywatt.sarif
      pywatt-host validate --strict --set server.listen=:8080
      pywatt-host validate deploy/wattson.yaml
    """
    problems: list[Problem] = []
    for target in targets or (None,):
        if is_only_a_workspace(Path(target)) if target is not None else found_in(Path()):
            if profile is not None or overrides:
                raise click.UsageError("--profile and --set are for manifests; a workspace has neither")
            problems += _workspace_problems(
                target or WORKSPACE_NAME, env_file, allow_unset=allow_unset, imports=not no_import, live=live
            )
            continue
        selection = Selection(target, profile, overrides, env_file)
        try:
            examined = selection.examine(allow_unset=allow_unset)
        except ManifestError as error:
            problems += [*error.problems, *_disagreements(selection)]
            continue
        except AppLoadError as error:  # of a Python file: its decorator would be the manifest
            problems += faults_of(error)
            continue
        found, loaded = [*examined.problems, *_disagreements(selection)], examined.loaded
        if loaded is not None and not no_import:
            found += _imported(selection, examined, loaded, allow_unset)
        if loaded is None:
            pass  # nothing of it can be read
        elif live and not examined.faulty:
            live_problems = import_module("pywatt_host.cli.live").live_problems
            found += live_problems(loaded, env_file, lambda line: click.echo(line, err=True))
        else:
            found += Certificates(loaded, {}, left_out=examined.left_out).problems()
        problems += sorted(found, key=lambda problem: (not problem.line, problem.line, problem.column))
    style = "json" if as_json_list else style
    if style == "json":
        click.echo(json.dumps(as_json(problems), indent=2))
    elif style == "github":
        click.echo(render_github(problems), nl=False)
    elif style == "sarif":
        as_sarif = import_module("pywatt_host.cli.sarif").as_sarif
        fallback = next((target for target in targets if os.path.isfile(target)), DEFAULT_NAME)
        echo_json(as_sarif(problems, root=Path.cwd(), fallback=fallback))
    elif problems:
        sys.stdout.write(render_text(problems, color=coloured(sys.stdout)))
    else:
        click.echo("valid")
    failed = any(problem.severity == "error" or strict for problem in problems)
    return 2 if failed else 0


def _disagreements(selection: Selection) -> list[Problem]:
    """Warnings if the published schema and the types disagree about the manifest. jsonschema is slow to import."""
    if selection.script() is not None:
        return []
    compare = import_module("pywatt_host.manifest.schema.comparison").disagreements
    found: list[Problem] = compare(selection.source())
    return found


def _workspace_problems(
    target: str, env_file: Path | None, *, allow_unset: bool, imports: bool, live: bool
) -> list[Problem]:
    """The problems of a workspace and of all its modules. Where the file itself has errors, the manifests that it names
    are checked nevertheless, as far as they can be found."""
    read = read_workspace(workspace_source(target), env_file=env_file, allow_unset=allow_unset)
    if read.workspace is None:
        return read.problems

    def more(examined: Examined, loaded: Loaded) -> list[Problem]:
        if not live or examined.faulty:
            return list(Certificates(loaded, {}, left_out=examined.left_out).problems())
        live_problems = import_module("pywatt_host.cli.live").live_problems
        found: list[Problem] = live_problems(loaded, env_file, lambda line: click.echo(line, err=True), addresses=False)
        return found

    reader = reader_of(read.workspace, environment(None, env_file, Report()))
    checked = check_modules(read.workspace, reader, allow_unset=allow_unset, imports=imports, more=more)
    return [*read.problems, *checked.problems]


def _imported(selection: Selection, examined: Examined, loaded: Loaded, allow_unset: bool) -> list[Problem]:
    from pywatt_host.cli.inspection import Request

    source = selection.source()
    asked = Request(source, selection.profile, selection.overrides, selection.env_file, allow_unset, build=False)
    return import_problems(asked, examined, loaded)


def import_problems(asked: Request, examined: Examined, loaded: Loaded) -> list[Problem]:
    """The problems that importing the applications brings up, as far as they do not follow from those of the
    manifest."""
    from pywatt_host.cli.inspection import inspect_apps
    from pywatt_host.cli.inspection.partial import uninspectable

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


_NAMED_ROUTES = 3  # in a warning about several


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
