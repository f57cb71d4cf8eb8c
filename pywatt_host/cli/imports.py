"""`import`: writes a manifest out of the configuration of another server."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pywatt_host.cli.terminal import echo_json
from pywatt_host.imports import SOURCES, Imported, UnreadableError, import_configuration, report
from pywatt_host.imports.inputs import MAX_BYTES
from pywatt_host.scaffold import CannotWriteError, in_the_way, write


@click.command("import", context_settings={"ignore_unknown_options": False})
@click.argument("kind", metavar="unit|gunicorn|uvicorn|hypercorn|procfile", type=click.Choice(list(SOURCES)))
@click.argument("words", metavar="FILE|COMMAND...", nargs=-1, required=True)
@click.option("--app", metavar="MODULE:APP", help="The application, if the configuration does not name it.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the files into DIR and create it if necessary.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option("--json", "as_json", is_flag=True, help="Print the files and what was not taken over as JSON.")
def import_(kind: str, words: tuple[str, ...], app: str | None, output: Path | None, force: bool, as_json: bool) -> int:
    """Write a manifest that serves what a configuration of another server serves.

    The manifest goes to standard output, or with --output into a folder. Standard error lists what could not be taken
    over, with its line, the reason and what to do. Nothing of the configuration is run, and values that look like
    secrets are left out.

    \b
    Examples:
      pywatt-host import unit config.json > pywatt.yaml
      pywatt-host import gunicorn gunicorn.conf.py --app shop.wsgi --output .
      pywatt-host import gunicorn -- gunicorn -w 4 -b :8080 shop.wsgi
      pywatt-host import procfile Procfile --output .
    """
    if force and output is None:
        raise click.UsageError("--force needs --output: it overwrites the files in that folder")
    destination = Path(os.path.abspath(output if output is not None else "."))
    try:
        made = import_configuration(
            kind, list(words), destination=destination, environ=dict(os.environ), app=app, stdin=_standard_input
        )
    except UnreadableError as error:
        if as_json:
            echo_json({"files": {}, "findings": [error.data()]}, ascii=False)
        else:
            click.echo(f"Error: {error}", err=True)
        return error.exit_code
    if output is None and not as_json and len(made.files) > 1:
        raise click.UsageError(
            f"import writes several files ({', '.join(made.files)}). Name a folder for them with --output DIR."
        )
    if output is not None:
        code = _written(output, made, force)
        if code:
            return code
    if as_json:
        findings = [finding.data() for finding in made.findings]
        echo_json({"files": dict(made.files), "findings": findings}, ascii=False)
        return 0
    if output is None:
        click.echo(next(iter(made.files.values())), nl=False)
    click.echo(report(made.findings), nl=False, err=True)
    return 0


def _standard_input() -> bytes:
    return sys.stdin.buffer.read(MAX_BYTES + 1)


def _written(folder: Path, made: Imported, force: bool) -> int:
    """Write all files, or none if one exists already; the exit code is then 2."""
    taken = [] if force else in_the_way(folder, made.files)
    if taken:
        names = ", ".join(click.format_filename(folder / name) for name in taken)
        exist = "exists" if len(taken) == 1 else "exist"
        raise click.ClickException(f"no file was written: {names} {exist} already. Use --force to overwrite.")
    try:
        write(folder.absolute(), made.files, replacing=force)
    except CannotWriteError as error:
        click.echo(f"no file was written: {error}", err=True)
        return error.exit_code
    for name in made.files:
        click.echo(f"wrote {click.format_filename(folder / name)}", err=True)
    return 0
