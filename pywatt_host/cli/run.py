"""`run`: serves a manifest until it is stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from pywatt_host.build.host import build
from pywatt_host.cli.greeting import asked_for, greet, layer_of
from pywatt_host.cli.options import Selection, coloured, loaded_or_exit, manifest_options, show_problems
from pywatt_host.exceptions import AppLoadError, HostError, ManifestError, ProtocolError
from pywatt_host.manifest import Loaded, Problem
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.model import Logging, Manifest
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.values import Address
from pywatt_host.observability.escaping import json_line
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import Clock, configured, standard_error, style_for
from pywatt_host.runtime.event_loop import loop_factory, tune_collector
from pywatt_host.runtime.host import Host, Ready

if TYPE_CHECKING:
    from pywatt_host.app.decorated import Decorated
    from pywatt_host.channels.stdio import Descriptors, Handshake

logger = logging.getLogger("pywatt.host")


class Parent(Protocol):
    """The process that started this one and follows its progress. `announces`: whether to print the ready line.
    `sockets`: the listening sockets that it passes on, by manifest key."""

    announces: bool
    sockets: Mapping[str, Sequence[Address]]

    def ready(self, host: Host) -> None: ...

    def failed(self, error: HostError, stream: LogStream) -> None: ...


_SUPERVISION = ("server.workers", "server.reload", "server=")
_SUPERVISION_VARIABLES = ("PYWATT__SERVER__WORKERS", "PYWATT__SERVER__RELOAD")

# Set by `cli.served`. If it is set, the host's own answers name the manifest key that would change them.
parent_of_this: ContextVar[Parent | None] = ContextVar("pywatt_parent", default=None)


@click.command()
@manifest_options
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Listen here instead of server.listen: host:port, :port, unix:PATH, fd:N, systemd. Can be repeated.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error", "critical"]), help="Override logging.level."
)
@click.option("--log-format", type=click.Choice(["auto", "json", "console"]), help="Override logging.format.")
@click.option("--orchestrated", is_flag=True, help="Expect an orchestrator on standard input and output.")
@click.option(
    "--standalone", is_flag=True, help="Expect no orchestrator, whatever PYWATT_MODULE_ID or channels.stdio say."
)
@click.option(
    "--trace-protocol",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Append every message on the channels to FILE, as JSON lines with secrets masked.",
)
def run(
    selection: Selection,
    listen: tuple[str, ...],
    log_level: str | None,
    log_format: str | None,
    orchestrated: bool,
    standalone: bool,
    trace_protocol: Path | None,
) -> int:
    """Serve a manifest in the foreground.

    Prints one line with the real address when the host is ready. The first SIGTERM, SIGINT (Ctrl-C) or SIGQUIT
    drains: the host finishes running requests and accepts no new ones. The second ends the process at once.

    Under an orchestrator (PYWATT_MODULE_ID is set, --orchestrated, or channels.stdio: required) the host first reads
    the orchestrator's init from standard input. Standard output then belongs to the protocol, and output of the
    application goes to standard error.

    \b
    Examples:
      pywatt-host run
      pywatt-host run --listen 127.0.0.1:0 users.api:app
      pywatt-host run my_module.py
      pywatt-host run --profile prod --set server.limits.body=1GiB deploy
    """
    more = [f"server.listen={json.dumps(list(listen))}"] if listen else []
    more += [f"logging.level={log_level}"] if log_level else []
    more += [f"logging.format={log_format}"] if log_format else []
    selection = replace(selection, overrides=(*selection.overrides, *more))
    if standalone and orchestrated:
        raise click.UsageError("--standalone and --orchestrated exclude each other")
    handshake: Handshake | None = None
    loaded: Loaded | None = None
    descriptors: Descriptors | None = None
    greeted = not standalone and asked_for(orchestrated)
    given = click.get_current_context().obj
    try:
        if greeted and (given is not None or selection.script() is not None):
            # The file is imported before the handshake, and its output must not reach the orchestrator.
            descriptors = import_module("pywatt_host.channels.stdio").private_descriptors()
        selection = _with_function(selection, given)
        if greeted:
            handshake = greet(selection, insist=orchestrated, descriptors=descriptors)
        else:
            loaded = loaded_or_exit(selection)
            if not standalone and loaded.manifest.channels.stdio == "required":
                handshake = greet(selection, insist=True)
    except ProtocolError as error:
        click.echo(f"the handshake failed: {error}", err=True)
        return error.exit_code
    if handshake is not None or loaded is None:
        loaded = loaded_or_exit(selection, init=layer_of(handshake))
    environ = environment(None, selection.env_file, Report())
    if loaded.manifest.server.supervised and parent_of_this.get() is None:
        supervise = import_module("pywatt_host.cli.supervise").supervise
        code: int = supervise(
            loaded.manifest,
            loaded.warnings,
            environ,
            selection,
            handshake=handshake,
            init=layer_of(handshake),
            trace=trace_protocol,
            announce=lambda ready, manifest, stream, terminal: _announce(ready, manifest.logging, stream, terminal),
        )
        return code
    return serve(
        loaded.manifest,
        loaded.warnings,
        environ,
        handshake,
        trace_protocol,
        selection.decorated,
        returns=given is not None,
    )


def _with_function(selection: Selection, given: Decorated | None) -> Selection:
    try:
        if given is None and _may_have_workers(selection):
            described = replace(selection, decorated=None)
            if described.load(allow_unset=True).manifest.server.supervised:
                return described
        return selection.with_function(given)
    except ManifestError as error:
        show_problems(error.problems)
        raise click.exceptions.Exit(error.exit_code) from None
    except AppLoadError as error:
        if error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(error.exit_code) from None


def _may_have_workers(selection: Selection) -> bool:
    """Whether a Python file may be run by a supervisor, which must not import it: a child process looks then. Arguments
    of the decorator do not name workers; a manifest, an override or a variable may."""
    script = selection.script()
    if script is None:
        return False
    if any(override.startswith(_SUPERVISION) for override in selection.overrides):
        return True
    if any(name.upper().startswith(_SUPERVISION_VARIABLES) for name in os.environ):
        return True
    try:
        return "manifest" in script.path.read_text(errors="replace")
    except OSError:
        return False


def serve(
    manifest: Manifest,
    warnings: Sequence[Problem] = (),
    environ: Mapping[str, str] | None = None,
    handshake: Handshake | None = None,
    trace: Path | None = None,
    decorated: Decorated | None = None,
    *,
    returns: bool = False,
) -> int:
    """Run a host until it is stopped, and return the exit code. `environ` (default: the process's) is the environment
    that the secret source `env` reads. `decorated` is the function that the manifest names, if the caller has it.
    `returns`: the caller runs code of its own afterwards, so the host must no longer end the process."""
    stream, terminal, colour = standard_error(), sys.stderr.isatty(), coloured(sys.stderr)
    parent = parent_of_this.get()

    def explain(error: HostError) -> None:
        _explain(error)
        if parent is not None:
            parent.failed(error, stream)

    logged = configured(manifest.logging, stream, terminal=terminal, colour=colour, short_tracebacks=parent is not None)
    with logged:
        for problem in warnings:
            logger.warning("%s", problem.logged)
        if trace is not None and handshake is None and manifest.channels.ipc is None and manifest.channels.tcp is None:
            logger.warning("--trace-protocol: the module has no channel, so the file stays empty")
        try:
            objects = decorated.objects if decorated is not None else {}
            host = build(
                manifest, environ, stream, handshake=handshake, trace=trace, objects=objects, explain=parent is not None
            )
        except HostError as error:
            explain(error)
            return error.exit_code
        except OSError as error:
            raise click.UsageError(f"--trace-protocol {trace}: {(error.strerror or '').lower()}") from None

        def announce(ready: Ready) -> None:
            if decorated is not None:
                decorated.keep_token(manifest)
            if parent is None or parent.announces:
                _announce(ready, manifest.logging, stream, terminal)
            tune_collector()
            if parent is not None:
                parent.ready(host)

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            sockets = parent.sockets if parent is not None else {}
            failed = False
            try:
                code = runner.run(host.serve(announce, ends_process=True, sockets=sockets))
            except HostError as error:  # reported before the event loop closes, which a task of the user may delay
                explain(error)
                code, failed = error.exit_code, True
        if failed or returns:
            host.unwound()
        return code


def _announce(ready: Ready, settings: Logging, stream: LogStream, terminal: bool) -> None:
    """Write the ready line, at every log level."""
    if style_for(settings, terminal) == "json":
        document: dict[str, Any] = {
            "time": Clock()(time.time()),
            "level": "info",
            "logger": "pywatt.host",
            "message": f"ready on {', '.join(ready.listen)}",
            "event": "ready",
            "module": ready.module_id,
            "listen": ready.listen,
            "pid": os.getpid(),
        }
        document |= {"version": ready.version} if ready.version else {}
        document |= {"admin": ready.admin} if ready.admin else {}
        document |= {"workers": ready.workers} if ready.workers else {}
        stream.write(json_line(document))
        return
    name = f"{ready.module_id} {ready.version}".strip()
    served = (
        f" ({' '.join(ready.paths)}{' on ' + ', '.join(ready.admin) if ready.admin else ''})" if ready.paths else ""
    )
    workers = f"; {ready.workers} worker{'s' if ready.workers > 1 else ''}" if ready.workers else ""
    stream.write(f"ready: {name} on {', '.join(ready.listen)}{served}{workers}; Ctrl-C stops\n".encode())


def _explain(error: HostError) -> None:
    """Log why the host could not start: one line, and the unchanged traceback if the user's code raised."""
    cause = error.__cause__ if isinstance(error, AppLoadError) else None
    logger.critical("%s", error, exc_info=cause)
