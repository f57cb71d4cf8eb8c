"""`up`: runs several modules together, as a local orchestrator."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from pywatt_host.cli.options import coloured, show_problems
from pywatt_host.cli.stopping import StopRequestedError, stoppable
from pywatt_host.cli.terminal import plain
from pywatt_host.cli.workspaces import check_modules, exit_code_of, is_workspace, reader_of, unusable
from pywatt_host.dev.module_watch import ModuleWatch, files_read_at_start
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
from pywatt_host.orchestrator.manifests import ModuleManifests
from pywatt_host.orchestrator.wattson import Up, Wattson
from pywatt_host.runtime.event_loop import loop_factory
from pywatt_host.secrets import Masker, SecretStore
from pywatt_host.secrets.sources import make_sources
from pywatt_host.supervision.output import Output

logger = logging.getLogger("pywatt.wattson")

_DEFAULT_SOURCES = (SecretSource(kind="env"), SecretSource(dotenv=".env"))


@click.command()
@click.argument("targets", metavar="[WATTSON.YAML|FOLDER|MANIFEST|FILE.py...]", nargs=-1)
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
@click.option("--watch", is_flag=True, help="Restart a module when its files change. Needs the extra dev.")
def up(
    targets: tuple[str, ...], env_file: Path | None, log_level: str | None, log_format: str | None, watch: bool
) -> int:
    """Run several modules together on this machine: those of ./wattson.yaml, or the manifests that are named.

    `up` checks the manifests and imports every application, starts the modules in the order of their dependencies,
    gives them secrets, passes on their messages, serves all of them at one address, and restarts a module that crashes.
    The first SIGTERM, SIGINT (Ctrl-C) or SIGQUIT stops the modules in reverse order; the second kills them. SIGHUP
    reloads all modules, one replica after the other.

    \b
    Examples:
      pywatt-host up
      pywatt-host up deploy/wattson.yaml
      pywatt-host up users/pywatt.yaml billing.py
      pywatt-host up --watch
    """
    if watch and find_spec("watchfiles") is None:
        click.echo("--watch needs the package watchfiles. Install it with: pip install 'pywatt-host[dev]'", err=True)
        return 2
    try:
        with stoppable():
            loaded = _workspace(targets, env_file)
            workspace = loaded.workspace
            reader = reader_of(workspace, os.environ)
            checked = check_modules(workspace, reader)
            faults = unusable(checked.problems)
            if faults:
                show_problems(faults)
                if not watch or exit_code_of(faults) != 3:  # with --watch, broken code is tried again once it changes
                    return exit_code_of(faults)
            changes = {"level": log_level, "format": log_format}
            settings = workspace.logging.model_copy(update={name: value for name, value in changes.items() if value})
            return _run(workspace, reader, checked.manifests, settings, loaded.warnings, env_file, watch=watch)
    except ManifestError as error:
        show_problems(error.problems)
        return 2
    except StopRequestedError as error:
        click.echo(f"stopped by {error.signal_name} before anything was started", err=True)
        return 0


def _workspace(targets: tuple[str, ...], env_file: Path | None) -> LoadedWorkspace:
    """The workspace that the arguments name. A wattson.yaml is recognised by its name, or by the folder that has one.
    Raises ManifestError."""
    if not targets:
        return load_workspace(workspace_source(), env_file=env_file)
    if len(targets) == 1 and is_workspace(Path(targets[0])):
        return load_workspace(workspace_source(targets[0]), env_file=env_file)
    return from_manifests(targets, env_file=env_file)


def _run(
    workspace: Workspace,
    reader: ModuleManifests,
    manifests: dict[str, Manifest],
    settings: Logging,
    warnings: tuple[Problem, ...],
    env_file: Path | None,
    *,
    watch: bool,
) -> int:
    """Run the workspace. The secret source `env` reads the environment of this process, which modules inherit, and
    `env_file`."""
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
            environ=environment(None, env_file, Report()),
            fetch=None,
        )
        store = SecretStore(workspace.secret_keys, sources, masker)
        style = style_for(settings, terminal)
        output = Output(stream, style, colour, masker.mask)
        files: ModuleWatch | None = None
        if watch:
            read_at_start = files_read_at_start(workspace, [env_file])
            files = ModuleWatch(workspace, manifests, read_at_start, _say_that_it_is_not_read)
        try:
            wattson = Wattson(workspace, reader, manifests, store, output, dict(os.environ), masker, watch=files)
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                return runner.run(wattson.serve(lambda ready: _announce(ready, wattson.name, style, stream)))
        except HostError as error:
            logger.critical("%s", error)
            return error.exit_code


def _say_that_it_is_not_read(name: str) -> None:
    logger.warning("%s has changed; up reads it only when it starts: stop up, and start it again", name)


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
