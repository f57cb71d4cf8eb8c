"""`export`: files that run a module under systemd, Compose or Kubernetes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from pywatt_host.cli.options import Selection, show_problems
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.export import Exported, ExportOptions, Facts, compose, kubernetes, read, systemd
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.values import TcpAddress
from pywatt_host.scaffold import CannotWriteError, in_the_way, write

_KINDS: Mapping[str, Callable[[Facts, ExportOptions], Exported]] = {
    "systemd": systemd,
    "compose": compose,
    "kubernetes": kubernetes,
}
# Options that are not for all of them.
_FOR = {
    "image": ("compose", "kubernetes"),
    "secret": ("kubernetes",),
    "cpu": ("kubernetes",),
    "memory": ("kubernetes",),
    "directory": ("systemd",),
    "socket": ("systemd",),
}
_HIGHEST_PORT = 65535
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")
_QUANTITY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?\Z")


@click.command()
@click.argument("kind", metavar="systemd|compose|kubernetes", type=click.Choice(list(_KINDS)))
@click.argument("target", metavar="[MANIFEST|FOLDER|MODULE:APP|FILE.py]", required=False)
@click.option("--profile", metavar="NAME", help="Profile of the manifest that will run; PYWATT_PROFILE is the default.")
@click.option("--env-file", metavar="FILE", type=click.Path(path_type=Path), help="Variables for ${VAR}.")
@click.option("--output", metavar="DIR", type=click.Path(path_type=Path), help="Write files there; made if need be.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@click.option("--replicas", metavar="N", type=click.IntRange(1, 1000), default=1, help="How many instances; 1.")
@click.option("--image", metavar="IMAGE", help="Image with the module; its id and version are the default.")
@click.option("--secret", metavar="NAME", help="Kubernetes: the Secret to mount; ID-secrets is the default.")
@click.option("--nats", metavar="URL", help="Address of NATS, in place of the manifest's.")
@click.option("--cpu", metavar="QUANTITY", help="Kubernetes: requested processor time, such as 250m.")
@click.option("--memory", metavar="QUANTITY", help="Kubernetes: requested memory and its limit, such as 256Mi.")
@click.option("--directory", metavar="DIR", help="systemd: the module's folder there; /srv/ID is the default.")
@click.option("--socket", is_flag=True, help="systemd: a socket unit, so that no connection is refused in between.")
def export(
    kind: str,
    target: str | None,
    profile: str | None,
    env_file: Path | None,
    output: Path | None,
    force: bool,
    replicas: int,
    image: str | None,
    secret: str | None,
    nats: str | None,
    cpu: str | None,
    memory: str | None,
    directory: str | None,
    socket: bool,
) -> int:
    """Write files that run a module on one machine or many: with probes, ports, times and secrets as the manifest says.

    One file goes to standard output; with --output, all of them into a folder. No application is imported. Values of
    secrets are never written, and PYWATT__ variables of this shell do not count.

    \b
    Examples:
      pywatt-host export kubernetes --replicas 3 --image registry.example/users:1.4.0 | kubectl apply -f -
      pywatt-host export compose --output .
      pywatt-host export systemd --socket --output units users/pywatt.yaml
    """
    wishes = ExportOptions(replicas, image, secret, nats, cpu, memory, directory, socket)
    _check(kind, wishes)
    if force and output is None:
        raise click.UsageError("--force goes with --output: it overwrites what is there")
    facts = _facts(Selection(target, profile, (), env_file))
    if nats is not None and not facts.uses_nats:
        raise click.UsageError("--nats: the manifest has no channels.nats")
    highest = max((each.port for each in facts.manifest.server.listen if isinstance(each, TcpAddress)), default=0)
    if kind != "kubernetes" and highest + replicas - 1 > _HIGHEST_PORT:
        raise click.UsageError(f"--replicas: each has a port of its own, and there are none after {_HIGHEST_PORT}")
    made = _KINDS[kind](facts, wishes)
    files = made.files
    for note in made.notes:
        click.echo(f"to know: {note}", err=True)
    if output is not None:
        return _written(output, files, force)
    if len(files) > 1:
        raise click.UsageError(f"these are several files ({', '.join(files)}): say --output DIR")
    click.echo("".join(files.values()), nl=False)
    return 0


def _check(kind: str, wishes: ExportOptions) -> None:
    """Raises UsageError for what cannot be meant."""
    for name, kinds in _FOR.items():
        if getattr(wishes, name) and kind not in kinds:
            raise click.UsageError(f"--{name} is for {' and '.join(kinds)}")
    if wishes.image is not None and (not wishes.image.strip() or re.search(r"\s|[^\x21-\x7e]", wishes.image)):
        raise click.UsageError("--image: that is no name of an image")
    if wishes.secret is not None and not _NAME.match(wishes.secret):
        raise click.UsageError(
            "--secret: lower-case letters, digits, dots and dashes are wanted, such as users-secrets"
        )
    for name in ("cpu", "memory"):
        value = getattr(wishes, name)
        if value is not None and not _QUANTITY.match(value):
            raise click.UsageError(f"--{name}: a quantity is wanted, such as {'250m' if name == 'cpu' else '256Mi'}")
    if wishes.directory is not None and (not wishes.directory.startswith("/") or not wishes.directory.isprintable()):
        raise click.UsageError("--directory: an absolute path is wanted, such as /srv/users")
    if wishes.nats is not None:
        _check_nats(wishes.nats)


def _check_nats(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname or not url.isprintable():
        raise click.UsageError("--nats: nats://HOST:PORT is wanted")
    if parts.username is not None or parts.password is not None:
        raise click.UsageError("--nats: credentials are no part of it, they would be written out: use channels.nats")


def _facts(selection: Selection) -> Facts:
    """What the manifest says; its faults end the command with exit code 2."""
    report = Report()
    variables = environment(None, selection.env_file, report)
    try:
        if report.errors():
            raise ManifestError(report.errors())
        source = selection.source()
        facts, warnings = read(source, profile=selection.profile, environ=variables, command=_command())
    except ManifestError as error:
        show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
    except AppLoadError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(error.exit_code) from None
    if warnings:
        show_problems(warnings)
    return facts


def _command() -> str:
    """The command line that makes the same again."""
    context = click.get_current_context()
    words = ["pywatt-host", "export"]
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if isinstance(parameter, click.Argument):
            words += [str(value)] if value else []
        elif parameter.name != "force" and value not in (None, False) and value != parameter.default:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return shlex.join(words)


def _written(folder: Path, files: Mapping[str, str], force: bool) -> int:
    """All of them, or none; exit code 2 where one is there already."""
    taken = [] if force else in_the_way(folder, files)
    if taken:
        names = ", ".join(click.format_filename(folder / name) for name in taken)
        are = "is" if len(taken) == 1 else "are"
        raise click.ClickException(f"nothing was written: {names} {are} there already (--force overwrites)")
    try:
        write(folder.absolute(), files, replacing=force)
    except CannotWriteError as error:
        click.echo(f"nothing was written: {error}", err=True)
        return error.exit_code
    for name in files:
        click.echo(f"wrote {click.format_filename(folder / name)}", err=True)
    return 0
