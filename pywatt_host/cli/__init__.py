"""The command line: turns arguments into calls. It is the only place that prints or exits.

The module of a verb is imported when the verb is used, so that `--help` is fast and `validate` loads no server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import click

from pywatt_host import __version__
from pywatt_host.cli.standard_streams import open_closed_streams, print_last_words

if TYPE_CHECKING:
    from pywatt_host.app.decorated import Decorated

# verb -> (module in this package, line in `--help`)
_VERBS = {
    "run": ("run", "Serve a manifest in the foreground."),
    "dev": ("dev", "Serve during development and restart when a file changes."),
    "validate": ("validate", "Check manifests, and compare the application's routes with them."),
    "explain": ("explain", "Explain the code of a fault, with an example and what to do."),
    "config": ("show", "Print the effective manifest and where each value came from."),
    "routes": ("show", "List declared endpoints and the application's routes."),
    "token": ("token", "Print a token that a scheme of `auth` accepts."),
    "schema": ("show", "Print the JSON schema of pywatt.yaml or wattson.yaml, for editors and CI."),
    "up": ("up", "Run several modules together on this machine."),
    "ps": ("ps", "List the running hosts and the modules of `up`."),
    "logs": ("logs", "Print what the modules of `up` wrote to standard error."),
    "rotate": ("control", "Fetch a secret again and put the new value to use."),
    "send": ("send", "Send a message to a module and print its reply."),
    "stop": ("control", "Drain and stop a host, `up`, or one module."),
    "reload": ("reload", "Let a running host read its manifest and code again, without losing a request."),
    "diff": ("diff", "Show what a reload of the manifest would change."),
    "init": ("init", "Write a new module, or a manifest for an existing application."),
    "import": ("imports", "Write a manifest out of the configuration of another server."),
    "export": ("export", "Write the files that run a module under systemd, Compose or Kubernetes, or its Dockerfile."),
    "completion": ("completion", "Print the completion script for bash, zsh or fish."),
}

# The functions of verbs whose names are words of Python.
_FUNCTIONS = {"import": "import_"}

_EXAMPLES = """
\b
Examples:
  pywatt-host init users                 write a new module with a test
  pywatt-host run                        serve ./pywatt.yaml
  pywatt-host run users.api:app          serve with all defaults, no manifest
  pywatt-host run --listen :8080 examples/quickstart
  pywatt-host validate --strict          fail on warnings as well, for CI
  pywatt-host up                         run the modules of ./wattson.yaml together

\b
Exit codes: 0 stopped as asked, all work done; 1 unexpected error, or work was
cut off; 2 wrong usage or invalid manifest; 3 could not start; 4 handshake or
required channel failed; 5 orchestrator lost.
"""


_SERVING = ("run", "dev", "up")


def _loaded_unless_stopped(name: str) -> ModuleType:
    """Import the module of a verb that serves, which takes a moment. A signal that asks it to end ends it with 0."""
    stopping = import_module("pywatt_host.cli.stopping")
    try:
        with stopping.stoppable():
            return import_module(name)
    except stopping.StopRequestedError as error:
        click.echo(f"stopped by {error.signal_name} before anything was started", err=True)
        raise click.exceptions.Exit(0) from None


class _Verbs(click.Group):
    """The verbs of the command line. Each is imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        load = _loaded_unless_stopped if cmd_name in _SERVING else import_module
        module = load(f"pywatt_host.cli.{_VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, _FUNCTIONS.get(cmd_name, cmd_name))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name and name not in _VERBS and not name.startswith("-"):
            from difflib import get_close_matches

            meant = get_close_matches(name, _VERBS, 1)
            hint = f'did you mean "{meant[0]}"?' if meant else f"available: {', '.join(_VERBS)}"
            ctx.fail(f'no such command "{name}" ({hint})')
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pywatt-host", message="%(prog)s %(version)s")
def cli() -> None:
    """Serve an ASGI or WSGI application as its pywatt.yaml declares."""


def execute(arguments: Sequence[str] | None = None, module: Decorated | None = None) -> int:
    """Run the command line and return its exit code. `module` is the decorated function that `run` serves."""
    open_closed_streams()
    try:
        code = cli.main(args=arguments, prog_name="pywatt-host", standalone_mode=False, obj=module)
    except click.ClickException as error:
        error.show()
        return 2
    except click.Abort:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its exit code."""
    sys.excepthook = print_last_words
    sys.exit(execute(arguments))
