"""The hosts that run here and answer on their control sockets: how the verbs find one and talk to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pywatt_host.cli.terminal import echo, plain
from pywatt_host.runtime.control import control_folders
from pywatt_host.runtime.control_client import PATIENCE, RefusedError, ask

ELSEWHERE = "pywatt-host ps lists what is running. To look elsewhere, use --folder or --control."


@dataclass(frozen=True, slots=True)
class Running:
    """A host or an `up` that answered on its control socket."""

    socket: Path
    status: dict[str, Any]

    @property
    def id(self) -> str:
        name: str = self.status["module"]["id"]
        return name

    @property
    def is_workspace(self) -> bool:
        return self.status.get("kind") == "workspace"

    @property
    def modules(self) -> list[str]:
        """The ids of the modules of a workspace."""
        return [module["id"] for module in self.status.get("modules", ())]


def ask_running(
    one: Running, target: str, document: dict[str, Any] | None = None, timeout: float = PATIENCE
) -> dict[str, Any]:
    """The answer of a host that answered a moment ago. If it has stopped since then, the command ends with exit code 1.
    Raises RefusedError."""
    try:
        return ask(one.socket, "POST", target, document, timeout)
    except OSError:
        echo(f"{one.id} ({one.status['pid']}): the connection closed before the answer arrived", err=True)
        raise click.exceptions.Exit(1) from None


def _sockets(folder: Path, explicit: Path | None) -> Iterator[Path]:
    if explicit is not None:
        yield explicit
        return
    for place in control_folders(folder, os.environ):
        yield from sorted(place.glob("*.sock"))


def running_hosts(folder: Path, explicit: Path | None) -> list[Running]:
    """All hosts that answer, without the modules of an `up` which also answers."""
    return without_modules(list(answering(folder, explicit)))


def without_modules(found: list[Running]) -> list[Running]:
    """These hosts without those that belong to an `up` among them."""
    theirs = {
        replica["pid"] for each in found for module in each.status.get("modules", ()) for replica in module["replicas"]
    }
    return [each for each in found if each.status["pid"] not in theirs]


def answering(folder: Path, explicit: Path | None) -> Iterator[Running]:
    for path in _sockets(folder, explicit):
        try:
            yield Running(path, ask(path, "GET", "/status"))
        except ConnectionRefusedError:
            if explicit is None:
                path.unlink(missing_ok=True)  # left behind by a process that was killed
        except (OSError, RefusedError) as error:
            echo(f"{path}: {(isinstance(error, OSError) and error.strerror) or error}", err=True)


def only(found: list[Running], what: str) -> Running:
    """The only host in `found`. Raises UsageError if there is none or more than one."""
    if not found:
        raise click.UsageError(f"no {what} is running here. {ELSEWHERE}")
    if len(found) > 1:
        names = plain(", ".join(f"{each.id} ({each.status['pid']})" for each in found))
        raise click.UsageError(f"several are running here: {names}. Choose one with --control.")
    return found[0]


folder_option = click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder of the manifest or wattson.yaml, in which to look when XDG_RUNTIME_DIR is not set.",
)
control_option = click.option(
    "--control", type=click.Path(path_type=Path), help="Path of one control socket (server.control)."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
