"""`export`: writes the files that run a module under systemd, Compose or Kubernetes, and its Dockerfile."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import click

from pywatt_host.cli.options import Selection, show_problems
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.export import Exported, ExportOptions, Facts, compose, dockerfile, kubernetes, read, systemd
from pywatt_host.manifest.load import environment
from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.values import TcpAddress
from pywatt_host.scaffold import CannotWriteError, in_the_way, write

_KINDS: Mapping[str, Callable[[Facts, ExportOptions], Exported]] = {
    "systemd": systemd,
    "compose": compose,
    "kubernetes": kubernetes,
    "dockerfile": dockerfile,
}
# Options that only some kinds have.
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
@click.argument("kind", metavar="systemd|compose|kubernetes|dockerfile", type=click.Choice(list(_KINDS)))
@click.argument("target", metavar="[MANIFEST|FOLDER|MODULE:APP|FILE.py]", required=False)
@click.option("--profile", metavar="NAME", help="Profile that the deployment runs with. Default: PYWATT_PROFILE.")
@click.option(
    "--env-file", metavar="FILE", type=click.Path(path_type=Path), help="Read variables for ${VAR} from FILE."
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the files into DIR and create it if necessary.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--replicas", metavar="N", type=click.IntRange(1, 1000), default=1, help="Number of instances. Default: 1."
)
@click.option("--image", metavar="IMAGE", help="Image with the module. Default: the module's id and version.")
@click.option("--secret", metavar="NAME", help="Kubernetes: the Secret to mount. Default: ID-secrets.")
@click.option("--nats", metavar="URL", help="Address of NATS, instead of the manifest's.")
@click.option("--cpu", metavar="QUANTITY", help="Kubernetes: requested CPU time, such as 250m.")
@click.option(
    "--memory", metavar="QUANTITY", help="Kubernetes: requested memory, which is also the limit, such as 256Mi."
)
@click.option(
    "--directory", metavar="DIR", help="systemd: the module's folder on the target machine. Default: /srv/ID."
)
@click.option(
    "--socket",
    is_flag=True,
    help="systemd: also write a socket unit, so that no connection is refused during a restart.",
)
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
    """Write the files that run a module on one or more machines, with the manifest's probes, ports, times and secrets.

    A single file goes to standard output. With --output, all files go into a folder. `export` imports no application,
    never writes the value of a secret, and ignores the PYWATT__ variables of the shell.

    \b
    Examples:
      pywatt-host export kubernetes --replicas 3 --image registry.example/users:1.4.0 | kubectl apply -f -
      pywatt-host export compose --output .
      pywatt-host export dockerfile --output .
      pywatt-host export systemd --socket --output units users/pywatt.yaml
    """
    wishes = ExportOptions(replicas, image, secret, nats, cpu, memory, directory, socket)
    _check(kind, wishes)
    if force and output is None:
        raise click.UsageError("--force needs --output: it overwrites the files in that folder")
    facts = _facts(Selection(target, profile, (), env_file))
    if nats is not None and not facts.uses_nats:
        raise click.UsageError("--nats: the manifest has no channels.nats. Add it, or leave --nats out.")
    highest = max((each.port for each in facts.manifest.server.listen if isinstance(each, TcpAddress)), default=0)
    if kind != "kubernetes" and highest + replicas - 1 > _HIGHEST_PORT:
        raise click.UsageError(
            f"--replicas: each instance needs a port of its own, and the highest port is {_HIGHEST_PORT}"
        )
    made = _KINDS[kind](facts, wishes)
    files = dict(made.files)
    if output is not None:
        files |= {name: text for name, text in made.beside.items() if not in_the_way(output, [name])}
    for note in made.notes:
        click.echo(f"note: {note}", err=True)
    if output is not None:
        return _written(output, files, force)
    if len(files) > 1:
        raise click.UsageError(
            f"export writes several files ({', '.join(files)}). Name a folder for them with --output DIR."
        )
    click.echo("".join(files.values()), nl=False)
    return 0


def _check(kind: str, wishes: ExportOptions) -> None:
    """Raises UsageError for what cannot be meant."""
    for name, kinds in _FOR.items():
        if getattr(wishes, name) and kind not in kinds:
            raise click.UsageError(f"--{name} applies only to {' and '.join(kinds)}")
    if kind == "dockerfile" and wishes.replicas > 1:
        raise click.UsageError("--replicas does not apply to dockerfile: an image is one instance")
    if wishes.image is not None and (not wishes.image.strip() or re.search(r"\s|[^\x21-\x7e]", wishes.image)):
        raise click.UsageError("--image: this is not the name of an image")
    if wishes.secret is not None and not _NAME.match(wishes.secret):
        raise click.UsageError("--secret: use lower-case letters, digits, dots and dashes, such as users-secrets")
    for name in ("cpu", "memory"):
        value = getattr(wishes, name)
        if value is not None and not _QUANTITY.match(value):
            raise click.UsageError(f"--{name}: this is not a quantity, such as {'250m' if name == 'cpu' else '256Mi'}")
    if wishes.directory is not None and (not wishes.directory.startswith("/") or not wishes.directory.isprintable()):
        raise click.UsageError("--directory: this is not an absolute path, such as /srv/users")
    if wishes.nats is not None:
        _check_nats(wishes.nats)


def _check_nats(url: str) -> None:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("nats", "tls", "ws", "wss") or not parts.hostname or not url.isprintable():
        raise click.UsageError("--nats: this is not an address of the form nats://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise click.UsageError(
            "--nats: the address must not contain credentials, because the files would show them; use channels.nats"
        )


def _facts(selection: Selection) -> Facts:
    """The facts of the manifest. Errors in the manifest end the command with exit code 2."""
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
    """The command line that generates the same files again."""
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
    """Write all files, or none if one exists already; the exit code is then 2."""
    taken = [] if force else in_the_way(folder, files)
    if taken:
        names = ", ".join(click.format_filename(folder / name) for name in taken)
        exist = "exists" if len(taken) == 1 else "exist"
        raise click.ClickException(f"no file was written: {names} {exist} already. Use --force to overwrite.")
    try:
        write(folder.absolute(), files, replacing=force)
    except CannotWriteError as error:
        click.echo(f"no file was written: {error}", err=True)
        return error.exit_code
    for name in files:
        click.echo(f"wrote {click.format_filename(folder / name)}", err=True)
    return 0
