"""`init`: a new module in a folder, or a manifest around an application that exists."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pywatt_host.cli.options import show_problems
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
    help="What the new application is written with; fastapi where it is installed, else starlette.",
)
@click.option(
    "--from", "import_path", metavar="MODULE:APP", help="No new application: list the routes of this one as endpoints."
)
@click.option("--build", is_flag=True, help="With --from: call the factory, to see the routes of what it makes.")
def init(folder: Path, framework: str | None, import_path: str | None, build: bool) -> int:
    """Write a module that runs: manifest, its schema for the editor, an application of two routes, and a test.

    With --from, the manifest of an application that exists: its routes as endpoints, and a test that asks for each.
    Nothing that is there is overwritten: either all files are written, or none.

    \b
    Examples:
      pywatt-host init                                  into this folder
      pywatt-host init users --framework flask
      pywatt-host init --from main:app                  for the application in main.py
      pywatt-host init --from users.api:create_app --build
    """
    if import_path is None and build:
        raise click.UsageError("--build goes with --from: it calls the factory that is named there")
    if import_path is not None and framework is not None:
        raise click.UsageError("--framework is for a new application, and --from is for one that exists")
    if os.path.lexists(folder) and not folder.is_dir():
        raise click.ClickException(f"{click.format_filename(folder)} is not a folder")
    try:
        if import_path is not None:
            return _adopted(folder, import_path, build)
        return _started(folder, framework)
    except CannotWriteError as error:
        click.echo(f"nothing was written: {error}", err=True)
        return error.exit_code


def _started(folder: Path, framework: str | None) -> int:
    chosen = framework or ("fastapi" if installed("fastapi") else "starlette")
    _write(folder, starter(chosen, module_id_of(_real(folder))))
    click.echo(f"the framework is {chosen}" + ("" if framework else "; --framework chooses another"))
    if not installed(chosen):
        click.echo(f"{chosen} is not installed: pip install {chosen}")
    _next(folder)
    return 0


def _adopted(folder: Path, import_path: str, build: bool) -> int:
    if re.match(IMPORT_PATTERN, import_path) is None:
        raise click.UsageError(f'--from: "{import_path}" is not module:attribute, such as main:app')
    where = _home_of(import_path, _real(folder))
    found = _inspected(import_path, where, build)
    failure = found.failure or next((_line(seen.fault) for seen in found.apps if seen.fault is not None), "")
    if failure:
        click.echo(f"nothing was written: {import_path}: {failure}", err=True)
        return 3
    seen = found.apps[0]
    working_dir = os.path.relpath(where, _real(folder))
    made = adopt(import_path, working_dir, module_id_of(_real(folder)), found.rows)
    _write(folder, made.files)
    if made.endpoints:
        number = "one endpoint" if made.endpoints == 1 else f"{made.endpoints} endpoints"
        click.echo(f"{import_path}: {number}, open to everyone, and nothing else is served")
    elif made.unsayable:
        click.echo(f"{import_path}: endpoints: auto, since a list cannot say its routes ({made.unsayable})")
    elif seen.factory:
        click.echo(f"{import_path}: endpoints: auto, since a factory makes it; with --build it is called and asked")
    elif seen.readable:
        click.echo(f"{import_path}: endpoints: auto, since it has no routes")
    else:
        click.echo(f"{import_path}: endpoints: auto, since its routes cannot be read")
    for warning in made.warnings:
        click.echo(f"warning: {warning}", err=True)
    _next(folder)
    return 0


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


def _home_of(import_path: str, folder: Path) -> Path:
    """The folder that has the module: that of the manifest, its `src`, or the current one; a module that is in none of
    them is installed, or missing, and the manifest's folder is as good as any that is there."""
    package = import_path.partition(":")[0].partition(".")[0]
    here = Path.cwd()
    places = [place for place in (folder, folder / "src", here) if place.is_dir()]
    having = [place for place in places if PathFinder.find_spec(package, [os.fspath(place)]) is not None]
    return next(iter([*having, *places]))


def _inspected(import_path: str, where: Path, build: bool) -> Inspection:
    """Its routes, looked at in a child process. What the environment overrides holds there as well, profiles do not."""
    from pywatt_host.cli.inspection import Request, inspect_apps

    data = {"app": {"import_path": import_path, "working_dir": os.fspath(where)}}
    source = Source.of_data(data, name=import_path, directory=where)
    try:
        load(source, profile="")
    except ManifestError as error:
        show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
    return inspect_apps(Request(source, "", (), None, allow_unset=False, build=build))


def _line(fault: Fault) -> str:
    hint = fault.hint
    if fault.reason == "factory-arguments":
        hint = "leave --build out, and write app.args into the manifest that comes"
    return fault.message + (f" ({hint})" if hint else "")


def _write(folder: Path, files: Mapping[str, str]) -> None:
    """All of them, or none; exit code 2 where one is there already."""
    taken = in_the_way(folder, files)
    if taken:
        names = ", ".join(click.format_filename(folder / name) for name in taken)
        hint = " (--from app:app writes a manifest for it)" if "app.py" in taken and "pywatt.yaml" not in taken else ""
        are = "is" if len(taken) == 1 else "are"
        raise click.ClickException(f"nothing was written: {names} {are} there already{hint}")
    write(_real(folder), files)
    for name in files:
        click.echo(f"wrote {click.format_filename(folder / name)}")


def _next(folder: Path) -> None:
    name = "" if folder == Path() else f" {shlex.quote(click.format_filename(folder))}"
    click.echo("next:")
    click.echo(f"  pywatt-host run{name}")
    click.echo(f"  pywatt-host dev{name}    # starts again when a file changes")
    click.echo(f"  pytest{name}" + ("" if installed("pytest") else "    # pip install pytest"))
