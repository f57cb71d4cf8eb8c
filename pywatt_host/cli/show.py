"""`schema`, `config` and `routes`: print the schema, the effective manifest and the endpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
import yaml

from pywatt_host.cli.options import Selection, loaded_or_exit, manifest_options, progress
from pywatt_host.cli.terminal import echo, echo_lines
from pywatt_host.manifest import dump


@click.command()
@click.argument("what", type=click.Choice(["manifest", "workspace"]), default="manifest")
def schema(what: str) -> int:
    """Print the JSON schema (draft 2020-12) of the manifest or of the workspace (wattson.yaml).

    \b
    Example, for editors without a network (docs/editors.md):
      pywatt-host schema > pywatt.schema.json
      # then, as the first line of pywatt.yaml:
      # yaml-language-server: $schema=pywatt.schema.json
    """
    from pywatt_host.manifest.schema.json_schema import manifest_schema, workspace_schema

    document = manifest_schema() if what == "manifest" else workspace_schema()
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    return 0


@click.command()
@manifest_options
@click.option("--origins", is_flag=True, help="Print where each value came from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of YAML.")
def config(selection: Selection, origins: bool, as_json: bool) -> int:
    """Print the effective manifest: file, profile, environment and --set in one, with every default.

    \b
    Examples:
      pywatt-host config --profile prod
      pywatt-host config --origins --json
    """
    loaded = loaded_or_exit(selection)
    if not origins:
        document = dump(loaded.manifest, masked=True)
        click.echo(json.dumps(document, indent=2) if as_json else _yaml(document), nl=as_json)
        return 0
    rows = list(loaded.origins())
    if as_json:
        found = [{"path": path, "value": value, "origin": origin} for path, value, origin in rows]
        click.echo(json.dumps(found, indent=2))
        return 0
    width = min(max(len(path) for path, _, _ in rows), 48)
    for path, value, origin in rows:
        click.echo(f"{path.ljust(width)}  {json.dumps(value, ensure_ascii=False)}  # {origin}")
    return 0


def _yaml(document: dict[str, Any]) -> str:
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


@click.command()
@manifest_options
@click.option("--build", is_flag=True, help="Call factories and list the routes of the applications that they return.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def routes(selection: Selection, build: bool, as_json: bool) -> int:
    """List the declared endpoints and the application's routes, and show where the two differ.

    \b
    States:
      served      declared, and the application has it
      missing     declared, but the application does not have it
      undeclared  the application has it, but it is not declared: not served
      unknown     the routes cannot be read, or not all of them (--build calls factories)
      partial     all paths that the table does not have: the application answers, or may answer, some of them

    \b
    Examples:
      pywatt-host routes
      pywatt-host routes --build --json users.api:create_app
    """
    from pywatt_host.cli.inspection import Request, inspect_apps

    loaded_or_exit(selection)
    asked = Request(
        selection.source(), selection.profile, selection.overrides, selection.env_file, allow_unset=False, build=build
    )
    found = inspect_apps(asked, progress=progress)
    if found.failure is not None:
        echo(str(found.failure), err=True)
        echo_lines(found.failure.output, err=True)
        return 3
    if as_json:
        document = [
            {
                "path": row.path,
                "methods": list(row.methods),
                "app": row.app,
                "state": row.state,
                "auth": row.auth or None,
                "summary": row.summary,
            }
            for row in found.rows
        ]
        click.echo(json.dumps(document, indent=2))
    else:
        head = ("METHODS", "PATH", "AUTH", "APP", "STATE", "SUMMARY")
        lines = [
            (" ".join(row.methods), row.path, row.auth or "-", row.app or "-", row.state, row.summary)
            for row in found.rows
        ]
        _table([head, *lines])
    for rule in found.unmatched:
        click.echo(f"{rule.key}: {rule} ({rule.hint})", err=True)
    for seen in found.apps:
        if seen.fault is not None:
            echo(f"{seen.name}: {seen.fault}", err=True)
            echo_lines(seen.fault.trace, err=True)
        elif seen.factory:
            click.echo(f"{seen.name} is made by a factory. Use --build to call it and list its routes.", err=True)
        elif not seen.readable:
            click.echo(f"{seen.name}: its routes cannot be read; the host passes every path to it", err=True)
        elif seen.partial:
            echo(f"{seen.name}: this table is partial: {seen.partial}", err=True)
    return 3 if any(seen.fault is not None for seen in found.apps) else 0


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
