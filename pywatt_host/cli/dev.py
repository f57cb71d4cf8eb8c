"""`dev`: serve a manifest and restart when a file changes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import click

from pywatt_host.cli.options import Selection, coloured, manifest_options
from pywatt_host.cli.stopping import StopRequestedError, stoppable
from pywatt_host.dev.changes import watched_files
from pywatt_host.dev.session import DevConfig, DevSession
from pywatt_host.devservices import DEV_SERVICES
from pywatt_host.devservices.services import DevServices
from pywatt_host.exceptions import HostError, ManifestError
from pywatt_host.http.allowed_hosts import LOCAL_HOSTS, AllowedHosts, named_in
from pywatt_host.manifest import Manifest, Source, load
from pywatt_host.manifest.problems import render_text
from pywatt_host.manifest.values import TcpAddress
from pywatt_host.observability.logs import standard_error
from pywatt_host.supervision.serving_child import SHUTDOWN_TIMEOUT
from pywatt_host.supervision.sockets import is_local, listen_addresses


@click.command()
@manifest_options
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Listen here instead of server.listen: a loopback address with a port, or unix:PATH. Can be repeated.",
)
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error", "critical"]), help="Override logging.level."
)
@click.option(
    "--ignore",
    "ignored",
    metavar="PATTERN",
    multiple=True,
    help="Ignore changes to these files, such as 'uploads/*'. Can be repeated.",
)
def dev(selection: Selection, listen: tuple[str, ...], log_level: str | None, ignored: tuple[str, ...]) -> int:
    """Serve a manifest during development and restart when code, the manifest or .env change.

    `dev` listens on loopback only, writes readable logs, and reads the .env beside the manifest. Its own answers, such
    as 404 and 400, name the manifest key that would change them. A store with the URL postgresql+dev:// or
    redis+dev:// is a private server, whose data is kept in .pywatt. While the saved code cannot start, every request is
    answered with 503 and the reason. Needs the extra `dev`.

    \b
    Examples:
      pywatt-host dev
      pywatt-host dev --listen 127.0.0.1:0 users.api:app
      pywatt-host dev my_module.py
      pywatt-host dev --ignore 'uploads/*' --set logging.loggers.sqlalchemy=info
    """
    if find_spec("watchfiles") is None:
        click.echo("dev needs the package watchfiles. Install it with: pip install 'pywatt-host[dev]'", err=True)
        return 2
    more = [f"server.listen={json.dumps(list(listen))}"] if listen else []
    more += [f"logging.level={log_level}"] if log_level else []
    selection = replace(selection, overrides=(*selection.overrides, *more))
    services: DevServices | None = None
    echo = _Echo()
    config_reader = _ConfigReader(selection, bool(listen), ignored, echo.line)
    try:
        with stoppable(), asyncio.Runner() as runner:
            folder = selection.source().directory
            os.environ[DEV_SERVICES] = os.fspath(folder)  # for the child, which may use private servers
            services = DevServices(folder, os.environ)
            return runner.run(DevSession(config_reader.read, echo.line, echo.faults, services.keep).serve())
    except ManifestError as error:
        echo.faults(error)
        return error.exit_code
    except HostError as error:
        echo.line(str(error))
        return error.exit_code
    except StopRequestedError as error:
        echo.line(f"stopped by {error.signal_name} before anything was started")
        return 0
    finally:
        if services is not None:
            services.close()
        echo.finish()


class _Echo:
    """Prints on standard error while the event loop serves: a reader that does not read holds nothing."""

    def __init__(self) -> None:
        self._stream = standard_error()

    def line(self, text: str) -> None:
        self._write(f"{text}\n")

    def faults(self, error: ManifestError) -> None:
        self._write(render_text(error.problems, color=coloured(sys.stderr)))

    def _write(self, text: str) -> None:
        self._stream.write(text.encode("utf-8", "backslashreplace"), text.count("\n"))

    def finish(self) -> None:
        self._stream.finish()


@dataclass(frozen=True, slots=True)
class _ConfigReader:
    """Reads the present manifest, with the options of the command line, for each start."""

    selection: Selection
    listen_given: bool
    ignored: tuple[str, ...]
    tell: Callable[[str], None]
    told: set[str] = field(default_factory=set)  # the lines that were told already
    described: dict[tuple[int, int], Source] = field(
        default_factory=dict
    )  # the last version of a Python file that could be read

    def read(self) -> DevConfig:
        """Raises ManifestError; click.UsageError for a --listen that others could reach."""
        source = self._source()
        env_file = self.selection.env_file
        beside = source.directory / ".env"
        if env_file is None and beside.is_file():
            env_file = beside
        manifest = load(
            source,
            profile=self.selection.profile if source.data is None else "",
            overrides=self.selection.overrides,
            env_file=env_file,
        ).manifest
        for address in manifest.server.listen if self.listen_given else ():
            if not is_local(address):
                message = (
                    f"--listen {address}: dev listens only on loopback addresses and Unix sockets; use run instead"
                )
                raise click.UsageError(message)
        self._tell_of_workers(manifest)
        listening = [address.host for address in manifest.server.listen if isinstance(address, TcpAddress)]
        names = named_in(listening)
        hosts = AllowedHosts([*(manifest.server.allowed_hosts or ()), *names], loopback=True)
        watched = watched_files(manifest, env_file=env_file or beside, ignored=self.ignored)
        script = self.selection.script()
        if script is not None:
            watched = replace(watched, files=watched.files | {script.path.resolve()})
        arguments = tuple(self._arguments(manifest, env_file))
        return DevConfig(listen_addresses(manifest), watched, arguments, hosts, {LOCAL_HOSTS: ",".join(names)})

    def _tell_of_workers(self, manifest: Manifest) -> None:
        server = manifest.server
        given = ["server.workers"] if server.workers.count != 1 else []
        given += ["server.reload"] if server.reload not in (None, "off") else []
        line = f"dev ignores {' and '.join(given)}: it serves with one process, which it restarts when a file changes"
        if given and line not in self.told:
            self.told.add(line)
            self.tell(line)

    def _source(self) -> Source:
        """The source of the manifest. A Python file is imported in a child process to find the addresses of its
        decorator. While that import fails, the last version that could be imported counts, or at first an empty
        manifest; the serving child reports the error."""
        script = self.selection.script()
        if script is None:
            return self.selection.source()
        try:
            status = script.path.stat()
            version = (status.st_mtime_ns, status.st_size)
            source = self.described.get(version) or self.selection.source()
            load(source, overrides=self.selection.overrides, env_file=self.selection.env_file)
            self.described.clear()
            self.described[version] = source
            return source
        except (HostError, OSError):
            for last in self.described.values():
                return last  # its addresses stay open and answer 503
            data = {"app": "module:app"}
            return Source.of_data(data, name=str(script), directory=script.path.parent.absolute())

    def _arguments(self, manifest: Manifest, env_file: Path | None) -> list[str]:
        selection = self.selection
        arguments = [selection.target] if selection.target else []
        arguments += ["--profile", selection.profile] if selection.profile is not None else []
        arguments += ["--env-file", str(env_file)] if env_file is not None else []
        shutdown = min(manifest.server.timeouts.shutdown, SHUTDOWN_TIMEOUT)
        settings = [
            *selection.overrides,
            f"server.timeouts.shutdown={int(shutdown * 1000)}ms",
            "server.timeouts.drain_delay=0s",
            "server.workers=1",
            "server.reload=off",
        ]
        if manifest.secrets.sources is None:
            settings.append('secrets.sources=[env, {"dotenv": ".env"}]')
        for setting in settings:
            arguments += ["--set", setting]
        return [*arguments, "--standalone", "--log-format", "console"]
