"""`ps`: lists the running hosts and the modules of `up`, with their health and the reason where it is not good."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from pywatt_host.cli.running import Running, answering, control_option, folder_option, without_modules
from pywatt_host.cli.terminal import echo, echo_json, plain
from pywatt_host.observability.failing_checks import failing_checks
from pywatt_host.workers.memory import own_memory

_GOOD = ("healthy", "running")
_INDENT = "      "

Row = tuple[str, str, str, str, str, str, str]


@click.command()
@folder_option
@control_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def ps(folder: Path, control: Path | None, as_json: bool) -> int:
    """List the hosts that the current user runs, and each `up` with its modules: how long they run, how much memory
    they have for themselves, and what is wrong with those that are not healthy.

    \b
    Examples:
      pywatt-host ps
      pywatt-host ps --json --control run/control.sock
    """
    everybody = list(answering(folder.absolute(), control))
    found = without_modules(everybody)
    own = {each.status["pid"]: each.status for each in everybody if not each.is_workspace}
    if as_json:
        echo_json([{**_with_memory(each.status, own), "control": os.fspath(each.socket)} for each in found])
        return 0
    if not found:
        echo("nothing runs here (to look elsewhere, use --folder or --control)", err=True)
        return 0
    rows: list[tuple[Row, str]] = [(("MODULE", "VERSION", "PID", "STATUS", "UP", "MEMORY", "LISTEN"), "")]
    for each in found:
        rows.append((_host_row(each, own), _why_of_host(each)))
        for module in each.status.get("modules", ()):
            rows += _replica_rows(module, own)
    shown = [([plain(cell) for cell in row], why) for row, why in rows]
    widths = [max(len(row[column]) for row, _ in shown) for column in range(len(rows[0][0]))]
    for cells, why in shown:
        echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        if why:
            echo(_INDENT + why)
    return 0


def _host_row(each: Running, own: Mapping[int, dict[str, Any]]) -> Row:
    status = each.status
    state = status["status"] + _reload_note(status) + _tls_note(status)
    listen = " ".join(status.get("listen", ()))
    version = status["module"].get("version", "-")
    return each.id, version, str(status["pid"]), state, since(status["started"]), size(memory_of(status, own)), listen


def _why_of_host(each: Running) -> str:
    if each.status["status"] in _GOOD or each.is_workspace:
        return ""
    return failing_checks(each.status)


def _replica_rows(module: dict[str, Any], own: Mapping[int, dict[str, Any]]) -> Iterator[tuple[Row, str]]:
    for replica in module["replicas"]:
        name = f"  {module['id']}" + (f".{replica['replica']}" if len(module["replicas"]) > 1 else "")
        state = "healthy" if replica["healthy"] else replica["state"]
        if replica["state"] == "running" and not replica["healthy"]:
            state = "unhealthy"
        if replica["restarts"]:
            state += f" (restarts: {replica['restarts']})"
        if not replica.get("in_use", True):
            state += " (reload)"
        told = own.get(replica["pid"], {})
        version = told.get("module", {}).get("version", "-") if told else "-"
        memory = size(memory_of(told or replica, own))
        pid, listen = str(replica["pid"] or "-"), replica["listen"] or "-"
        yield (name, version, pid, state, since(replica["since"]), memory, listen), str(replica.get("why") or "")


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


# Units ----------------------------------------------------------------------------------------------------------------


def since(moment: float) -> str:
    """How long ago a moment is: `42s`, `3m12s`, `2h05m`, `4d03h`."""
    seconds = max(0, int(time.time() - moment))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days}d{hours % 24:02}h"
    if hours:
        return f"{hours}h{minutes % 60:02}m"
    return f"{minutes}m{seconds % 60:02}s" if minutes else f"{seconds}s"


def size(count: int | None) -> str:
    """A number of bytes for people: `812.0 KiB`, `41.2 MiB`, `1.3 GiB`; `-` where they are not known."""
    if count is None:
        return "-"
    number = count / 1024
    for unit in ("KiB", "MiB"):
        if number < 1024:
            return f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def memory_of(status: Mapping[str, Any], own: Mapping[int, dict[str, Any]]) -> int | None:
    """The memory that a process has for itself, with that of its workers; None where that is not known."""
    told = own.get(status.get("pid") or 0, status)
    pids = [told.get("pid"), *(worker.get("pid") for worker in told.get("workers", ()))]
    known = [found for pid in pids if isinstance(pid, int) and pid > 0 and (found := own_memory(pid)) is not None]
    return sum(known) if known else None


def _with_memory(status: dict[str, Any], own: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    modules = [
        {**module, "replicas": [{**each, "memory": memory_of(each, own)} for each in module["replicas"]]}
        for module in status.get("modules", ())
    ]
    return {**status, "memory": memory_of(status, own), **({"modules": modules} if "modules" in status else {})}
