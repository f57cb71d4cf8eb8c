"""`init --from`: which application is meant, what its manifest says, and whether it was tried out."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pywatt_host.cli.options import progress, show_problems
from pywatt_host.cli.terminal import echo, echo_lines
from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Source, load
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.scaffold import Adopted, Candidate, CannotFindError, adopt, candidates, in_file, module_id_of

if TYPE_CHECKING:
    from pywatt_host.cli.inspection import Fault, Inspection, Seen, Served

_MOST_CANDIDATES = 20
_MOST_LISTED = 1000  # routes


@dataclass(frozen=True, slots=True)
class Adoption:
    """The files of a manifest for an existing application. `told` says what they are, `warnings` what the user should
    know, and `trace` what the application raised when it was tried out."""

    made: Adopted
    told: tuple[str, ...]
    warnings: tuple[str, ...]
    trace: str = ""


def adoption(folder: Path, wanted: str, build: bool, *, own_schema: bool) -> Adoption:
    """The manifest of the application that `wanted` names, in `folder`, which need not exist. Ends the command where
    the application cannot be found or imported."""
    chosen = _chosen(wanted, folder)
    found = _inspected(chosen, build)
    if found.failure is not None:
        raise _not_written(chosen.import_path, str(found.failure), found.failure.output)
    fault = next((seen.fault for seen in found.apps if seen.fault is not None), None)
    if fault is not None:
        raise _not_written(chosen.import_path, _line(fault), fault.trace)
    seen = found.apps[0]
    because = _why_no_list(seen, found)
    made = _made(chosen, folder, found, closed=not because, own_schema=own_schema)
    if made.unsayable:
        because = f"a list cannot express its routes ({made.unsayable})"
    if seen.factory:
        return Adoption(made, (_found(chosen), _said(chosen, made, because)), made.warnings)
    served = _served(chosen, folder, made)
    if made.endpoints and (surprise := _surprise(served)):
        because = surprise
        made = _made(chosen, folder, found, closed=False, own_schema=own_schema)
        served = served if served.failure else _served(chosen, folder, made)
    warnings = made.warnings + tuple(f"the host does not let this through: {each}" for each in served.refused)
    if served.failure:
        hint = "it may need services or variables that are missing here"
        warnings += (
            f"the manifest was not tried out, because the application did not start ({hint}): {served.failure}",
        )
        return Adoption(made, (_found(chosen), _said(chosen, made, because)), warnings, served.trace)
    passed = served.requests - served.number_refused
    tried = f"tried out: the host let {passed} of {served.requests} requests through to the application"
    return Adoption(made, (_found(chosen), _said(chosen, made, because), tried), warnings)


def _chosen(wanted: str, folder: Path) -> Candidate:
    """The application that `--from` names: `module:attribute`, a folder to look in, or a Python file."""
    file, _, name = wanted.partition(":")
    try:
        if Path(wanted).is_dir():
            found = candidates(Path(os.path.realpath(wanted)), os.environ)
        elif file.endswith(".py") and Path(file).is_file():
            found = in_file(Path(os.path.realpath(file)), name)
        elif re.match(IMPORT_PATTERN, wanted):
            return Candidate(wanted, _home_of(wanted, folder), "")
        else:
            message = f'--from: "{wanted}" is not of the form module:attribute, such as main:app, nor a folder or file'
            raise click.UsageError(message)
    except CannotFindError as error:
        raise click.UsageError(str(error)) from None
    if not found:
        shown = click.format_filename(wanted)
        raise click.UsageError(f"no application was found in {shown}. Name it: --from module:attribute")
    if len(found) > 1:
        raise click.UsageError("\n".join(["several applications were found. Choose one:", *_listed(found)]))
    return found[0]


def _listed(found: Sequence[Candidate]) -> list[str]:
    width = max(len(each.import_path) for each in found[:_MOST_CANDIDATES])
    lines = [f"  --from {each.import_path.ljust(width)}  # {each.why}" for each in found[:_MOST_CANDIDATES]]
    left = len(found) - _MOST_CANDIDATES
    return [*lines, f"  and {left} more"] if left > 0 else lines


def _home_of(import_path: str, folder: Path) -> Path:
    """The folder that has the application's module: the manifest's folder, its `src`, or the current folder. A module
    that is in none of them is installed or missing; this is then the first of these folders that exists."""
    package = import_path.partition(":")[0].partition(".")[0]
    here = Path.cwd()
    places = [place for place in (folder, folder / "src", here) if place.is_dir()]
    having = [place for place in places if PathFinder.find_spec(package, [os.fspath(place)]) is not None]
    return next(iter([*having, *places]))


def _inspected(chosen: Candidate, build: bool) -> Inspection:
    """The application's routes, read in a child process. Overrides of the environment apply there; profiles do not."""
    from pywatt_host.cli.inspection import Request, inspect_apps

    app = {"import_path": chosen.import_path, "working_dir": os.fspath(chosen.folder), "args": dict(chosen.args)}
    source = Source.of_data({"app": app}, name=chosen.import_path, directory=chosen.folder)
    try:
        load(source, profile="")
    except ManifestError as error:
        show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
    return inspect_apps(Request(source, "", (), None, allow_unset=False, build=build), progress=progress)


def _made(chosen: Candidate, folder: Path, found: Inspection, *, closed: bool, own_schema: bool) -> Adopted:
    working_dir = os.path.relpath(chosen.folder, folder)
    module_id = module_id_of(folder)
    return adopt(
        chosen.import_path,
        working_dir,
        module_id,
        found.rows,
        closed=closed,
        own_schema=own_schema,
        args=chosen.args,
    )


def _served(chosen: Candidate, folder: Path, made: Adopted) -> Served:
    from pywatt_host.cli.inspection import serve_once

    text = made.files["pywatt.yaml"]
    return serve_once(text, folder, chosen.folder, made.requests, name=chosen.import_path, progress=progress)


def _why_no_list(seen: Seen, found: Inspection) -> str:
    """Why the routes that were read may not be all of them; empty where they are."""
    if seen.factory:
        return "a factory makes the application; use --build to call it"
    if not seen.readable:
        return "its routes cannot be read"
    if seen.partial:
        return f"the table of its routes is partial: {seen.partial}"
    if seen.doubts:
        more = f" (and {len(seen.doubts) - 1} more reasons)" if len(seen.doubts) > 1 else ""
        return f"the table of its routes may be partial: {seen.doubts[0]}{more}"
    if len(found.rows) > _MOST_LISTED:
        return f"a list of its {len(found.rows)} routes would be too long"
    return "" if found.rows else "the application has no routes"


def _surprise(served: Served) -> str:
    """Why a list is not kept after it was tried out."""
    if served.failure:
        return "a list could not be tried out"
    if served.number_refused:
        return f"with a list, the host did not let {served.refused[0]} through"
    return f"the table of its routes is partial: {served.unlisted}" if served.unlisted else ""


def _found(chosen: Candidate) -> str:
    return f"{chosen.import_path}: found by {chosen.why}" if chosen.why else ""


def _said(chosen: Candidate, made: Adopted, because: str) -> str:
    if made.endpoints:
        number = "one endpoint" if made.endpoints == 1 else f"{made.endpoints} endpoints"
        return f"{chosen.import_path}: wrote {number} without authentication; the host serves no other path"
    return f"{chosen.import_path}: wrote endpoints: auto, because {because}"


def _line(fault: Fault) -> str:
    if fault.reason == "factory-arguments":
        hint = "leave --build out, and add app.args to the manifest that init writes"
        return str(replace(fault, hint=hint))
    return str(fault)


def _not_written(import_path: str, reason: str, detail: str) -> click.exceptions.Exit:
    echo(f"no file was written: {import_path}: {reason}", err=True)
    echo_lines(detail, err=True)
    return click.exceptions.Exit(3)
