"""`up`: runs several modules together, as a local orchestrator."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pywatt_host.cli.options import coloured, show_problems
from pywatt_host.cli.terminal import plain
from pywatt_host.exceptions import HostError, ManifestError
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.model import Logging, Manifest
from pywatt_host.manifest.model.secrets import SecretSource
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import Problem, Report
from pywatt_host.manifest.workspace import LoadedWorkspace, from_manifests, load_workspace, workspace_source
from pywatt_host.observability.escaping import json_line
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import Clock, configured, standard_error, style_for
from pywatt_host.orchestrator.manifests import load_manifests
from pywatt_host.orchestrator.wattson import Up, Wattson
from pywatt_host.runtime.event_loop import loop_factory
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.sources import make_sources
from pywatt_host.supervision.output import Output

logger = logging.getLogger("pywatt.wattson")

_DEFAULT_SOURCES = (SecretSource(kind="env"), SecretSource(dotenv=".env"))


@click.command()
@click.argument("targets", metavar="[WATTSON.YAML|FOLDER|MANIFEST...]", nargs=-1)
@click.option(
    "--env-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Read variables for ${VAR} in wattson.yaml and for the secret source env from FILE; the environment wins.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="Override logging.level of up.",
)
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="Override logging.format of up.")
def up(targets: tuple[str, ...], env_file: Path | None, log_level: str | None, log_format: str | None) -> int:
    """Run several modules together on this machine: those of ./wattson.yaml, or the manifests that are named.

    `up` starts the modules in the order of their dependencies, gives them secrets, passes on their messages, serves all
    of them at one address, and restarts a module that crashes. The first SIGTERM, SIGINT (Ctrl-C) or SIGQUIT stops
    the modules in reverse order; the second kills them. SIGHUP reloads all modules, one replica after the other.

    \b
    Examples:
      pywatt-host up
      pywatt-host up deploy/wattson.yaml
      pywatt-host up users/pywatt.yaml billing/pywatt.yaml
    """
    try:
        loaded = _workspace(targets, env_file)
        manifests = load_manifests(loaded.workspace, os.environ)
    except ManifestError as error:
        show_problems(error.problems)
        return 2
    workspace = loaded.workspace
    changes = {"level": log_level, "format": log_format}
    settings = workspace.logging.model_copy(update={name: value for name, value in changes.items() if value})
    return _run(workspace, manifests, settings, loaded.warnings, environment(None, env_file, Report()))


def _workspace(targets: tuple[str, ...], env_file: Path | None) -> LoadedWorkspace:
    """The workspace that the arguments name. A wattson.yaml is recognised by its name, or by the folder that has one.
    Raises ManifestError."""
    if not targets:
        return load_workspace(workspace_source(), env_file=env_file)
    if len(targets) == 1 and _is_workspace(Path(targets[0])):
        return load_workspace(workspace_source(targets[0]), env_file=env_file)
    return from_manifests(targets, env_file=env_file)


def _is_workspace(path: Path) -> bool:
    if path.is_dir():
        return (path / "wattson.yaml").exists()
    return path.name.startswith("wattson") or path.stem.endswith("wattson")


def _run(
    workspace: Workspace,
    manifests: dict[str, Manifest],
    settings: Logging,
    warnings: tuple[Problem, ...],
    variables: Mapping[str, str],
) -> int:
    """Run the workspace. The secret source `env` reads `variables`; modules inherit the environment of this process."""
    masker, stream = Masker(), standard_error()
    stream.mask_with(masker.mask_bytes)
    terminal, colour = sys.stderr.isatty(), coloured(sys.stderr)
    with configured(settings, stream, terminal=terminal, colour=colour):
        for problem in warnings:
            logger.warning("%s", problem.logged)
        declared = workspace.secrets
        sources = make_sources(
            declared.sources if declared.sources is not None else _DEFAULT_SOURCES,
            directory=workspace.directory,
            environ=variables,
            fetch=None,
        )
        store = SecretStore(workspace.secret_keys, sources, masker)
        style = style_for(settings, terminal)
        output = Output(stream, style, colour, masker.mask)
        try:
            wattson = Wattson(workspace, manifests, store, output, dict(os.environ), masker)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(wattson.serve(lambda ready: _announce(ready, wattson.name, style, stream)))
        except HostError as error:
            logger.critical("%s", error)
            return error.exit_code


def _announce(ready: Up, name: str, style: str, stream: LogStream) -> None:
    """Write the ready line, or a small table on a terminal, at every log level."""
    if style == "json":
        document: dict[str, Any] = {
            "time": Clock()(time.time()),
            "level": "info",
            "logger": "pywatt.wattson",
            "message": f"ready on {', '.join(ready.gateway)}",
            "event": "ready",
            "workspace": name,
            "listen": ready.gateway,
            "pid": os.getpid(),
            "modules": ready.modules,
        }
        stream.write(json_line(document))
        return
    rows = []
    for module in ready.modules:
        listen = " ".join(plain(_shown(replica["listen"])) for replica in module["replicas"] if replica["listen"])
        rows.append((module["id"], module["status"], listen or "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"  {id.ljust(widths[0])}  {status.ljust(widths[1])}  {listen}" for id, status, listen in rows]
    gateway = ", ".join(ready.gateway)
    stream.write("\n".join([f"ready: {name} on {gateway}; Ctrl-C stops", *lines, ""]).encode(), len(lines) + 1)


def _shown(listen: str) -> str:
    """An announced address in the form in which `run` shows its own."""
    return f"unix:{listen}" if listen.startswith("/") else f"http://{listen}"
