"""`rotate` and `stop`: talk to running hosts and to `up` over their control sockets."""

from __future__ import annotations

from pathlib import Path

import click

from pywatt_host.cli.running import (
    ELSEWHERE,
    ask_running,
    control_option,
    folder_option,
    json_option,
    only,
    running_hosts,
)
from pywatt_host.cli.terminal import echo, echo_json, plain
from pywatt_host.runtime.control_client import RefusedError

_ROTATION = 60.0  # seconds for a rotation: fetching the secret, and acknowledgements


@click.command()
@click.argument("module", metavar="[MODULE|PID]", required=False)
@folder_option
@control_option
def stop(module: str | None, folder: Path, control: Path | None) -> int:
    """Drain and stop a running host, an `up`, or one module of an `up`.

    The argument is an id or a process id. It can be left out when only one host is running.

    \b
    Examples:
      pywatt-host stop users
      pywatt-host stop --control run/control.sock
    """
    running = running_hosts(folder.absolute(), control)
    found = [each for each in running if module is None or module in (each.id, str(each.status["pid"]))]
    if not found and module is not None:
        holders = [each for each in running if module in each.modules]
        for each in holders:
            ask_running(each, "/stop", {"module": module})
            echo(f"{module} (of {each.id}) is stopping", err=True)
        if holders:
            return 0
    if not found:
        what = f'host or module named "{module}"' if module else "host"
        raise click.UsageError(f"no {what} is running here. {ELSEWHERE}")
    if module is None and len(found) > 1:
        names = plain(", ".join(f"{each.id} ({each.status['pid']})" for each in found))
        raise click.UsageError(f"several hosts are running here: {names}. Name one of them.")
    for each in found:
        ask_running(each, "/stop")
        echo(f"{each.id} ({each.status['pid']}) is stopping", err=True)
    return 0


@click.command()
@click.argument("name")
@folder_option
@control_option
@json_option
def rotate(name: str, folder: Path, control: Path | None, as_json: bool) -> int:
    """Fetch a secret again from its sources and put the new value to use: in the running host, or in every module of
    the running `up`.

    Prints which modules acknowledged the new value. The exit code is 1 if one did not.

    \b
    Examples:
      pywatt-host rotate JWT_SECRET
    """
    running = running_hosts(folder.absolute(), control)
    one = only([each for each in running if each.is_workspace] or running, "host")
    try:
        report = ask_running(one, "/rotate", {"name": name}, _ROTATION)
    except RefusedError as error:
        echo(f"{name}: {error}", err=True)
        return 1
    acknowledged: dict[str, str] = report.get("acknowledged", {})
    if as_json:
        echo_json(report)
    else:
        same = report.get("changed") is False
        echo(f"{name} {'has not changed' if same else 'is rotated'} in {one.id}")
        for module, outcome in acknowledged.items():
            echo(f"  {module}: {outcome}")
    return 0 if all(outcome == "success" for outcome in acknowledged.values()) else 1
