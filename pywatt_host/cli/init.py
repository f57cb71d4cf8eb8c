"""`init`: writes a new module into a folder, or a manifest for an existing application."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from pywatt_host.cli.adoption import adoption
from pywatt_host.cli.terminal import echo, echo_lines
from pywatt_host.scaffold import (
    FRAMEWORKS,
    CannotWriteError,
    in_the_way,
    installed,
    module_id_of,
    starter,
    write,
)


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option(
    "--framework",
    type=click.Choice(FRAMEWORKS),
    help="Framework of the new application. Default: fastapi if it is installed, else starlette.",
)
@click.option(
    "--from",
    "import_path",
    metavar="MODULE:APP|FOLDER|FILE.py",
    help="Write a manifest for this application, or for the one in this folder or file.",
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

    With --from, write a manifest for an existing application, and a test that requests the paths without parameters.
    The manifest lists the application's routes as its endpoints, unless it may have further ones. `init` starts the
    application once and asks the host for each route. No handler of a route runs for that, but the application's
    middleware sees one request for a path that does not exist. `init` overwrites no file: it writes all files or none.

    \b
    Examples:
      pywatt-host init                                  write into this folder
      pywatt-host init users --framework flask
      pywatt-host init --from .                         use the application in this folder
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


def _adopted(folder: Path, wanted: str, build: bool, own_schema: bool) -> int:
    adopted = adoption(_real(folder), wanted, build, own_schema=own_schema)
    _write(folder, adopted.made.files)
    for line in filter(None, adopted.told):
        echo(line)
    for warning in adopted.warnings:
        echo(f"warning: {warning}", err=True)
    echo_lines(adopted.trace, err=True)
    _next(folder)
    return 0


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))


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
