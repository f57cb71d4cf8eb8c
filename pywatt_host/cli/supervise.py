"""`run` for a host with several workers, or one that reloads: this process becomes the supervisor."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pywatt_host.cli.options import Selection, coloured
from pywatt_host.exceptions import HostError
from pywatt_host.manifest import Problem
from pywatt_host.manifest.load import InitLayer, environment
from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.problems import Report
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.observability.logs import configured, standard_error
from pywatt_host.runtime.event_loop import loop_factory, tune_collector
from pywatt_host.runtime.host import Ready
from pywatt_host.workers.supervisor import Supervisor
from pywatt_host.workers.zygote_process import WorkerStartError

if TYPE_CHECKING:
    from pywatt_host.channels.stdio import Handshake

logger = logging.getLogger("pywatt.host")


def supervise(
    manifest: Manifest,
    warnings: Sequence[Problem],
    environ: Mapping[str, str],
    selection: Selection,
    *,
    handshake: Handshake | None,
    init: InitLayer | None,
    trace: Path | None,
    announce: Callable[[Ready, Manifest, LogStream, bool], None],
) -> int:
    """Run a supervised host until it is stopped, and return the exit code. `selection` is loaded again for each reload,
    with `init`. `announce` prints the ready line."""
    stream, terminal, colour = standard_error(), sys.stderr.isatty(), coloured(sys.stderr)
    again = anew(selection)
    with ExitStack() as logging_settings:

        def use_logging(of: Manifest) -> None:
            logging_settings.close()
            logging_settings.enter_context(configured(of.logging, stream, terminal=terminal, colour=colour))

        use_logging(manifest)
        for problem in warnings:
            logger.warning("%s", problem.logged)
        try:
            supervisor = Supervisor(
                manifest,
                lambda: again.load(init=init).manifest,
                environ=environ,
                stream=stream,
                handshake=handshake,
                trace=trace,
                script=again.script(),
                env_file=selection.env_file,
                read_environ=lambda: environment(None, selection.env_file, Report()),
                relogged=use_logging,
            )
        except HostError as error:
            logger.critical("%s", error)
            return error.exit_code
        except OSError as error:
            raise click.UsageError(f"--trace-protocol {trace}: {(error.strerror or '').lower()}") from None

        def ready(ready: Ready) -> None:
            if selection.decorated is not None:
                selection.decorated.keep_token(manifest)
            announce(ready, manifest, stream, terminal)
            tune_collector()

        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            try:
                return runner.run(supervisor.serve(ready))
            except HostError as error:  # reported before the event loop closes
                if not (isinstance(error, WorkerStartError) and error.reported):
                    logger.critical("%s", error)
                return error.exit_code


def anew(selection: Selection) -> Selection:
    """The selection as a reload loads it: a decorated function is read by a child process, which imports its file."""
    decorated = selection.decorated
    if decorated is None or decorated.file is None:
        return replace(selection, decorated=None)
    target = f"{decorated.file}:{decorated.function.__name__}"
    return replace(selection, target=target, decorated=None)
