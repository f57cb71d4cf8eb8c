"""`validate`: reports every error of a manifest at once, and starts nothing."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import click

from pywatt_host.cli.auth_keys import auth_key_problems
from pywatt_host.cli.certificates import Certificates
from pywatt_host.cli.inactive_profiles import profile_problems
from pywatt_host.cli.options import Selection, coloured
from pywatt_host.cli.terminal import echo_json
from pywatt_host.cli.workspaces import check_modules, faults_of, found_in, is_only_a_workspace, reader_of
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Loaded, Problem, as_json, render_github, render_text
from pywatt_host.manifest.load import Examined, environment
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.source import DEFAULT_NAME, WORKSPACE_NAME
from pywatt_host.manifest.workspace import read_workspace, workspace_source


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
            found += _key_problems(examined, loaded)
        if selection.script() is None:
            found += profile_problems(selection.source(), found)
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


def _key_problems(examined: Examined, loaded: Loaded) -> list[Problem]:
    """What is wrong with certificates and keys that are in no secret."""
    found = list(Certificates(loaded, {}, left_out=examined.left_out).problems())
    return [*found, *auth_key_problems(loaded, {}, left_out=examined.left_out)]


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
            return _key_problems(examined, loaded)
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
    problems: list[Problem] = import_module("pywatt_host.cli.import_problems").import_problems(asked, examined, loaded)
    return problems
