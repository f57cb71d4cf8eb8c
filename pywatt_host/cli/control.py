"""`ps` and `stop`: talking to running hosts over their control sockets."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pywatt_host.control import control_folders

_PATIENCE = 5.0  # seconds for a host to answer on its control socket


@dataclass(frozen=True, slots=True)
class Running:
    """A host that answered on its control socket."""

    socket: Path
    status: dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def _ask(path: Path, method: str, target: str) -> dict[str, Any]:
    """Raises OSError where nobody answers."""
    connection = _UnixConnection(path)
    try:
        connection.request(method, target)
        answer = json.loads(connection.getresponse().read())
        assert isinstance(answer, dict)
        return answer
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{path} does not speak the control protocol") from error
    finally:
        connection.close()


def _sockets(folder: Path, explicit: Path | None) -> Iterator[Path]:
    if explicit is not None:
        yield explicit
        return
    for place in control_folders(folder, os.environ):
        yield from sorted(place.glob("*.sock"))


def _running(folder: Path, explicit: Path | None) -> Iterator[Running]:
    for path in _sockets(folder, explicit):
        try:
            yield Running(path, _ask(path, "GET", "/status"))
        except ConnectionRefusedError:
            if explicit is None:
                path.unlink(missing_ok=True)  # left over by a process that was killed
        except OSError as error:
            click.echo(f"{path}: {error}", err=True)


_folder = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder of the manifest, where no XDG_RUNTIME_DIR is set.",
)
_control = click.option(
    "--control", type=click.Path(path_type=Path), help="A control socket by its path (server.control)."
)


@click.command()
@_folder
@_control
@click.option("--json", "as_json", is_flag=True, help="One JSON list on standard output.")
def ps(folder: Path, control: Path | None, as_json: bool) -> int:
    """List the hosts that run here, as this user.

    \b
    Examples:
      pywatt-host ps
      pywatt-host ps --json --control run/control.sock
    """
    found = list(_running(folder.absolute(), control))
    if as_json:
        click.echo(json.dumps([{**each.status, "control": os.fspath(each.socket)} for each in found], indent=2))
        return 0
    rows = [("MODULE", "VERSION", "PID", "STATUS", "UP", "LISTEN")]
    for each in found:
        status, module = each.status, each.status["module"]
        up = f"{max(0, int(time.time() - status['started']))}s"
        listen = " ".join(status.get("listen", ()))
        rows.append((module["id"], module.get("version", "-"), str(status["pid"]), status["status"], up, listen))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


@click.command()
@click.argument("module", metavar="[MODULE|PID]", required=False)
@_folder
@_control
def stop(module: str | None, folder: Path, control: Path | None) -> int:
    """Ask a running host to drain and stop: by module id, by process id, or the only one there is.

    \b
    Examples:
      pywatt-host stop users
      pywatt-host stop --control run/control.sock
    """
    found = [
        each
        for each in _running(folder.absolute(), control)
        if module is None or module in (each.status["module"]["id"], str(each.status["pid"]))
    ]
    if not found:
        raise click.UsageError(f'no host named "{module}" runs here' if module else "no host runs here")
    if module is None and len(found) > 1:
        names = ", ".join(f"{each.status['module']['id']} ({each.status['pid']})" for each in found)
        raise click.UsageError(f"several hosts run here, name one: {names}")
    for each in found:
        _ask(each.socket, "POST", "/stop")
        click.echo(f"{each.status['module']['id']} ({each.status['pid']}) is stopping", err=True)
    return 0
