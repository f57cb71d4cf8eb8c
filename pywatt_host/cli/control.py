"""`ps`, `logs`, `rotate`, `send` and `stop`: talk to running hosts and to `up` over their control sockets."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from pywatt_host.runtime.control_client import PATIENCE, RefusedError, UnixConnection

_ROTATION = 60.0  # seconds for a rotation: fetching the secret, and acknowledgements
_LINES = 1000  # lines that `up` keeps of each module


@click.command()
@folder_option
@control_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def ps(folder: Path, control: Path | None, as_json: bool) -> int:
    """List the hosts that the current user runs, and each `up` with its modules.

    \b
    Examples:
      pywatt-host ps
      pywatt-host ps --json --control run/control.sock
    """
    found = running_hosts(folder.absolute(), control)
    if as_json:
        echo_json([{**each.status, "control": os.fspath(each.socket)} for each in found])
        return 0
    rows: list[tuple[object, ...]] = [("MODULE", "VERSION", "PID", "STATUS", "UP", "LISTEN")]
    for each in found:
        status = each.status
        version, listen = status["module"].get("version", "-"), " ".join(status.get("listen", ()))
        state = status["status"] + _reload_note(status) + _tls_note(status)
        rows.append((each.id, version, str(status["pid"]), state, _since(status["started"]), listen))
        for module in status.get("modules", ()):
            rows += _replica_rows(module)
    shown = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(rows[0]))]
    for row in shown:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _replica_rows(module: dict[str, Any]) -> Iterator[tuple[str, str, str, str, str, str]]:
    for replica in module["replicas"]:
        name = f"  {module['id']}" + (f".{replica['replica']}" if len(module["replicas"]) > 1 else "")
        state = "healthy" if replica["healthy"] else replica["state"]
        if replica["restarts"]:
            state += f" (restarts: {replica['restarts']})"
        if not replica.get("in_use", True):
            state += " (reload)"
        yield name, "-", str(replica["pid"] or "-"), state, _since(replica["since"]), replica["listen"] or "-"


def _reload_note(status: dict[str, Any]) -> str:
    """What is to be said about the reload of a workspace that runs, or about the last one that was refused."""
    if (reloading := status.get("reloading")) is not None:
        return f" (reloading {reloading['module']})"
    verdict = status.get("reload")
    return " (reload refused)" if verdict is not None and not verdict["ok"] else ""


def _tls_note(status: dict[str, Any]) -> str:
    """The certificates that cannot be used, and those that have expired."""
    faults = [each["fault"] for each in status.get("tls", {}).values() if "fault" in each]
    return "".join(f" ({fault['key']}: {fault['file']}: {fault['reason']})" for fault in faults)


def _since(moment: float) -> str:
    return f"{max(0, int(time.time() - moment))}s"


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
@click.argument("module", required=False)
@click.option("--follow", "-f", is_flag=True, help="Continue with every new line until Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, _LINES),
    default=_LINES,
    help="Print only the last N lines. Default: all lines that are kept.",
)
@folder_option
@control_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def logs(module: str | None, follow: bool, lines: int, folder: Path, control: Path | None, as_json: bool) -> int:
    """Print what the modules of an `up` wrote to standard error: all modules, or one.

    \b
    Examples:
      pywatt-host logs users -n 20
      pywatt-host logs -f
    """
    found = [each for each in running_hosts(folder.absolute(), control) if each.is_workspace]
    what = f'up with a module "{module}"' if module else "up"
    up = only([each for each in found if module is None or module in each.modules], what)
    target = f"/logs?lines={lines}" + (f"&module={quote(module)}" if module else "") + ("&follow=1" if follow else "")
    several = {each["id"] for each in up.status["modules"] if len(each["replicas"]) > 1}
    connection = UnixConnection(up.socket, None)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        while line := response.readline():
            document = json.loads(line)
            if as_json:
                echo_json(document, indent=None)
            else:
                name = document["module"]
                name += f".{document['replica']}" if name in several else ""
                echo(f"{name} | {document['text']}")
    except KeyboardInterrupt:
        return 0
    finally:
        connection.close()
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


@click.command()
@click.argument("module")
@click.argument("type")
@click.argument("content", metavar="[JSON]", default="{}")
@click.option(
    "--timeout", type=click.FloatRange(0.001, 3600), default=30.0, help="Seconds to wait for the reply. Default: 30."
)
@folder_option
@control_option
def send(module: str, type: str, content: str, timeout: float, folder: Path, control: Path | None) -> int:
    """Send a message to a module and print its reply as JSON.

    TYPE is the type of the message. The JSON argument is an object with the other fields of the message. The exit code
    is 1 if the reply is an error.

    \b
    Examples:
      pywatt-host send billing charge '{"user": 7, "cents": 1200}'
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise click.UsageError(f"the JSON argument is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise click.UsageError("the JSON argument must be an object, such as '{\"user\": 7}'")
    found = [
        each
        for each in running_hosts(folder.absolute(), control)
        if module in each.modules or (not each.is_workspace and module == each.id)
    ]
    one = only(found, f'module "{module}"')
    asked = {"module": module, "type": type, "content": document, "timeout": timeout}
    try:
        answer = ask_running(one, "/send", asked, timeout + 2 * PATIENCE)
    except RefusedError as error:
        echo(f"{module}: {error}", err=True)
        return 1
    if "error" in answer:
        echo(f"{module}: {answer['error']['message']} ({answer['error']['code']})", err=True)
        return 1
    echo_json(answer["reply"], ascii=False)
    return 0
