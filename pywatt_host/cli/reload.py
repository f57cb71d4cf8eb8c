"""`reload`: a running host reads its manifest and its code again, and the verdict is printed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import click

from pywatt_host.cli.running import (
    ELSEWHERE,
    Running,
    ask_running,
    control_option,
    folder_option,
    json_option,
    running_hosts,
)
from pywatt_host.cli.terminal import echo, echo_json, plain
from pywatt_host.runtime.control_client import LONGEST_RELOAD, RefusedError

_PROGRESS_DELAY = 1.0  # seconds until a line says that the command waits
_FAULTS = {
    "manifest": "the manifest is not valid",
    "plan": "the manifest changes keys that only a restart changes",
    "listen": "a listener could not be bound",
    "secrets": "a secret could not be fetched",
    "import": "the application could not be imported",
    "start": "the new workers did not become ready",
    "stopping": "the host is stopping",
}


@click.command()
@click.argument("module", metavar="[MODULE|PID]", required=False)
@folder_option
@control_option
@json_option
def reload(module: str | None, folder: Path, control: Path | None, as_json: bool) -> int:
    """Let a running host read its manifest and its code again, without losing a request.

    New workers start beside the old ones and replace them once they are ready. If anything is wrong, the old workers
    serve on and the command says what it was. The host needs `server.reload: signal` or `watch`, which is the default
    with more than one worker. `pywatt-host diff` shows beforehand what changes.

    The argument is an id or a process id. With an `up`, it is one of its modules, or all of them if it is left out. It
    can be left out when only one host is running.

    Exit codes: 0 the new generation is in use; 2 the manifest is at fault; 3 the new generation could not start; 1 no
    host is there, or the host does not reload.

    \b
    Examples:
      pywatt-host reload
      pywatt-host reload users --json
    """
    target, document = _chosen(running_hosts(folder.absolute(), control), module)
    name = f"{target.id} ({target.status['pid']})"
    try:
        with _progress(f"waiting for {name} to reload"):
            verdict = ask_running(target, "/reload", document, LONGEST_RELOAD)
    except RefusedError as error:
        echo(f"{name}: {error}", err=True)
        return 1
    if as_json:
        echo_json(verdict)
    else:
        for id, each in _verdicts(verdict, name):
            _print(id, each)
    return 0 if verdict.get("ok") is True else _exit_code(verdict)


def _chosen(running: list[Running], module: str | None) -> tuple[Running, dict[str, Any]]:
    """The host or `up` to ask, and the body of the request. Ends the command with exit code 1 if there is none."""
    found = [each for each in running if module is None or module in (each.id, str(each.status["pid"]))]
    document: dict[str, Any] = {}
    if not found and module is not None:
        found, document = [each for each in running if module in each.modules], {"module": module}
    if not found:
        what = f'host or module named "{module}"' if module else "host"
        echo(f"no {what} is running here. {ELSEWHERE}", err=True)
        raise click.exceptions.Exit(1)
    if len(found) > 1:
        names = plain(", ".join(f"{each.id} ({each.status['pid']})" for each in found))
        raise click.UsageError(f"several are running here: {names}. Name one of them by its process id.")
    return found[0], document


@contextmanager
def _progress(text: str) -> Iterator[None]:
    timer = Timer(_PROGRESS_DELAY, echo, (text,), {"err": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _verdicts(verdict: dict[str, Any], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The verdict of a host, or those of the modules of an `up`, with the name of each."""
    modules = verdict.get("modules")
    if isinstance(modules, dict):
        yield from modules.items()
    else:
        yield name, verdict


def _print(name: str, verdict: dict[str, Any]) -> None:
    generation = verdict.get("generation")
    if verdict.get("ok") is True:
        echo(f"{name}: generation {generation} is in use after {verdict.get('seconds', 0.0):.1f} s")
        return
    why = _FAULTS.get(str(verdict.get("stage")))
    serving = f"generation {generation} serves on" if generation is not None else "nothing has changed"
    echo(f"{name}: not reloaded{f', because {why}' if why else ''}; {serving}", err=True)
    for line in str(verdict.get("reason") or "").splitlines():
        echo(line, err=True)


def _exit_code(verdict: dict[str, Any]) -> int:
    code = verdict.get("exit_code")
    return code if code in (2, 3) else 1
