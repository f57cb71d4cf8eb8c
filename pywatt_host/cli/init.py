"""`init`: writes a new module into a folder, or a manifest for an existing application."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pywatt_host.cli.options import progress, show_problems
from pywatt_host.cli.terminal import echo, echo_lines
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.scaffold import (
    FRAMEWORKS,
    CannotWriteError,
    adopt,
    in_the_way,
    installed,
    module_id_of,
    starter,
    write,
)

if TYPE_CHECKING:
    from pywatt_host.cli.inspection import Fault, Inspection


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--framework",
    type=click.Choice(FRAMEWORKS),
    help="Framework of the new application. Default: fastapi if it is installed, else starlette.",
)
@click.option(
    "--from", "import_path", metavar="MODULE:APP", help="Write a manifest for this application, with its routes."
)
@click.option(
    "--build",
    is_flag=True,
    help="With --from: call the factory and list the routes of the application that it returns.",
)
@click.option(
    "--schema",
    "own_schema",
    is_flag=True,
    help="Write a copy of the JSON schema beside the manifest, and refer the editor to it.",
)
def init(folder: Path, framework: str | None, import_path: str | None, build: bool, own_schema: bool) -> int:
    """Write a module that runs: a manifest, an application with two routes, and a test.

    With --from, write a manifest for an existing application, with its routes as endpoints, and a test that requests
    those that need no parameter. `init` overwrites no file: it writes all files or none.

    \b
    Examples:
      pywatt-host init                                  write into this folder
      pywatt-host init users --framework flask
      pywatt-host init --from main:app                  use the application in main.py
      pywatt-host init --schema                         with a copy of the schema, for editors without a network
      pywatt-host init --from users.api:create_app --build
    """
    if import_path is None and build:
        raise click.UsageError("--build needs --from: it calls the factory that --from names")
    if import_path is not None and framework is not None:
        raise click.UsageError(
            "--framework is for a new application and --from for an existing one: use only one of them"
        )
    if os.path.lexists(folder) and not folder.is_dir():
        raise click.ClickException(f"{click.format_filename(folder)} is not a folder")
    try:
        if import_path is not None:
            return _adopted(folder, import_path, build, own_schema)
        return _started(folder, framework, own_schema)
    except CannotWriteError as error:
        click.echo(f"no file was written: {error}", err=True)
        return error.exit_code


def _started(folder: Path, framework: str | None, own_schema: bool) -> int:
    chosen = framework or ("fastapi" if installed("fastapi") else "starlette")
    _write(folder, starter(chosen, module_id_of(_real(folder)), own_schema=own_schema))
    click.echo(f"the framework is {chosen}" + ("" if framework else "; use --framework to choose another one"))
    if not installed(chosen):
        click.echo(f"{chosen} is not installed. Install it with: pip install {chosen}")
    _next(folder)
    return 0


def _adopted(folder: Path, import_path: str, build: bool, own_schema: bool) -> int:
    if re.match(IMPORT_PATTERN, import_path) is None:
        raise click.UsageError(f'--from: "{import_path}" is not of the form module:attribute, such as main:app')
    where = _home_of(import_path, _real(folder))
    found = _inspected(import_path, where, build)
    if found.failure is not None:
        return _not_written(import_path, str(found.failure), found.failure.output)
    fault = next((seen.fault for seen in found.apps if seen.fault is not None), None)
    if fault is not None:
        return _not_written(import_path, _line(fault), fault.trace)
    seen = found.apps[0]
    working_dir = os.path.relpath(where, _real(folder))
    made = adopt(import_path, working_dir, module_id_of(_real(folder)), found.rows, own_schema=own_schema)
    _write(folder, made.files)
    if made.endpoints:
        number = "one endpoint" if made.endpoints == 1 else f"{made.endpoints} endpoints"
        click.echo(f"{import_path}: wrote {number} without authentication; the host serves no other path")
    elif made.unsayable:
        click.echo(f"{import_path}: wrote endpoints: auto, because a list cannot express its routes ({made.unsayable})")
    elif seen.factory:
        click.echo(
            f"{import_path}: wrote endpoints: auto, because a factory makes the application; use --build to call it"
        )
    elif seen.readable:
        click.echo(f"{import_path}: wrote endpoints: auto, because the application has no routes")
    else:
        click.echo(f"{import_path}: wrote endpoints: auto, because its routes cannot be read")
    for warning in made.warnings:
        click.echo(f"warning: {warning}", err=True)
    _next(folder)
    return 0


def _not_written(import_path: str, reason: str, detail: str) -> int:
    echo(f"no file was written: {import_path}: {reason}", err=True)
    echo_lines(detail, err=True)
    return 3


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _home_of(import_path: str, folder: Path) -> Path:
    """The folder that has the application's module: the manifest's folder, its `src`, or the current folder. A module
    that is in none of them is installed or missing; this is then the first of these folders that exists."""
    package = import_path.partition(":")[0].partition(".")[0]
    here = Path.cwd()
    places = [place for place in (folder, folder / "src", here) if place.is_dir()]
    having = [place for place in places if PathFinder.find_spec(package, [os.fspath(place)]) is not None]
    return next(iter([*having, *places]))


def _inspected(import_path: str, where: Path, build: bool) -> Inspection:
    """The application's routes, read in a child process. Overrides of the environment apply there; profiles do not."""
    from pywatt_host.cli.inspection import Request, inspect_apps

    data = {"app": {"import_path": import_path, "working_dir": os.fspath(where)}}
    source = Source.of_data(data, name=import_path, directory=where)
    try:
        load(source, profile="")
    except ManifestError as error:
        show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
    return inspect_apps(Request(source, "", (), None, allow_unset=False, build=build), progress=progress)


def _line(fault: Fault) -> str:
    if fault.reason == "factory-arguments":
        hint = "leave --build out, and add app.args to the manifest that init writes"
        return str(replace(fault, hint=hint))
    return str(fault)


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """Write all files, or none if one exists already; the exit code is then 2."""
    taken = in_the_way(folder, files)
    if taken:
        names = ", ".join(click.format_filename(folder / name) for name in taken)
        hint = (
            ". To write a manifest for it, use --from app:app."
            if "app.py" in taken and "pywatt.yaml" not in taken
            else ""
        )
        exist = "exists" if len(taken) == 1 else "exist"
        raise click.ClickException(f"no file was written: {names} {exist} already{hint}")
    write(_real(folder), files)
    for name in files:
        click.echo(f"wrote {click.format_filename(folder / name)}")


def _next(folder: Path) -> None:
    name = "" if folder == Path() else f" {shlex.quote(click.format_filename(folder))}"
    click.echo("next:")
    click.echo(f"  pywatt-host run{name}")
    click.echo(f"  pywatt-host dev{name}    # restarts when a file changes")
    click.echo(f"  pytest{name}" + ("" if installed("pytest") else "    # pip install pytest"))
