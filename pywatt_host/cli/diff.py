"""`diff`: what a reload of the manifest would do, before it is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from pywatt_host.cli.options import Selection, loaded_or_exit, manifest_options
from pywatt_host.cli.running import Running, answering, control_option, json_option
from pywatt_host.cli.terminal import echo, echo_json, plain
from pywatt_host.runtime.control_client import RefusedError, ask
from pywatt_host.workers.plan import Change, Described, compare

_WORDS = {"rebuilt": "rebuilt", "in_place": "in place", "refused": "refused"}


@click.command()
@manifest_options
@click.option(
    "--against",
    metavar="FILE|PID",
    help="Compare with this manifest, or with the host that has this process id. Default: the running host.",
)
@control_option
@json_option
def diff(selection: Selection, against: str | None, control: Path | None, as_json: bool) -> int:
    """Show what a reload of the manifest would do with each key that has changed.

    \b
    rebuilt    new workers are built with the new value
    in place   the host takes the new value over as it runs
    refused    only a restart changes this key, so that the whole reload is refused

    The manifest is compared with the one that the running host of the same module uses, overrides and profile
    included: give the same options here as to the host. Secrets that stand in the manifest in plain text are not
    compared. With --against FILE, no host is needed.

    \b
    Examples:
      pywatt-host diff
      pywatt-host diff --profile prod --json deploy/pywatt.yaml
      pywatt-host diff --against deployed.yaml pywatt.yaml
    """
    loaded = loaded_or_exit(selection)
    if against is not None and not against.isdigit():
        old = loaded_or_exit(replace(selection, target=against)).manifest
        changes = compare(Described.of(old), Described.of(loaded.manifest))
    else:
        running = _running(loaded.manifest.directory, control, loaded.manifest.module_id, against)
        changes = compare(_described(running), Described.of(loaded.manifest, masked=True))
    if as_json:
        echo_json([change._asdict() for change in changes])
    else:
        _print(changes)
    return 0


def _running(folder: Path, control: Path | None, module_id: str, pid: str | None) -> Running:
    """The host to compare with: the one with this process id, at this control socket, or else of this module. Ends the
    command with exit code 1 if there is none."""
    hosts = [each for each in answering(folder, control) if not each.is_workspace]
    if pid is not None:
        found = [each for each in hosts if str(each.status["pid"]) == pid]
    elif control is not None:
        found = hosts
    else:
        found = [each for each in hosts if each.id == module_id]
    if not found:
        what = f"host with the process id {pid}" if pid is not None else f'host of the module "{module_id}"'
        echo(f"no {what} is running here. To compare with a file, use --against FILE.", err=True)
        raise click.exceptions.Exit(1)
    if len(found) > 1:
        pids = plain(", ".join(str(each.status["pid"]) for each in found))
        raise click.UsageError(f"several hosts of {plain(module_id)} are running here. Choose one: --against {pids}")
    return found[0]


def _described(running: Running) -> Described:
    try:
        return Described.running(ask(running.socket, "GET", "/manifest"))
    except (OSError, RefusedError, ValueError) as error:
        echo(f"{running.id} ({running.status['pid']}) did not tell its manifest: {error}", err=True)
        raise click.exceptions.Exit(1) from None


def _print(changes: list[Change]) -> None:
    if not changes:
        echo("no key has changed; a reload would only load the code anew")
        return
    width = max(len(plain(change.path)) for change in changes)
    for change in changes:
        echo(f"{plain(change.path).ljust(width)}  {_WORDS[change.action]:<8}  {change.reason}")
