"""The command line: words to calls. The only place that prints or exits.

A verb's module is imported when the verb is used, so that `--help` is fast and `validate` loads no server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click

from pywatt_host import __version__

if TYPE_CHECKING:
    from pywatt_host.app.decorated import Decorated

# verb -> (where it is, its line in `--help`)
_VERBS = {
    "run": ("run", "Serve a manifest, in the foreground."),
    "dev": ("dev", "Serve while working on it: start again when a file changes."),
    "validate": ("validate", "Check manifests: every fault at once, and the app's routes against them."),
    "config": ("show", "Print the effective manifest, and where each value came from."),
    "routes": ("show", "List endpoints: declared, served, drifted apart."),
    "token": ("token", "Print a token that a scheme of `auth` takes."),
    "schema": ("show", "Print the JSON schema of pywatt.yaml or wattson.yaml, for editors and CI."),
    "up": ("up", "Run several modules together: the local Wattson."),
    "ps": ("control", "List the hosts that run here, and the modules of `up`."),
    "logs": ("control", "Print what the modules of `up` wrote, and follow it."),
    "rotate": ("control", "Fetch a secret anew and put it to use."),
    "send": ("control", "Send a message to a module and print its reply."),
    "stop": ("control", "Ask a running host, `up` or a module to drain and stop."),
    "init": ("init", "Write a new module, or a manifest around an application that exists."),
    "export": ("export", "Write files that run a module under systemd, Compose or Kubernetes."),
    "completion": ("completion", "Print the completion script for bash, zsh or fish."),
}

_EXAMPLES = """
\b
Examples:
  pywatt-host init users                 write a module that runs, with a test
  pywatt-host run                        serve ./pywatt.yaml
  pywatt-host run users.api:app          serve an app without a manifest
  pywatt-host run --listen :8080 --set logging.level=debug examples/quickstart
  pywatt-host validate --strict          all faults and warnings, for CI
  pywatt-host up                         run the modules of ./wattson.yaml together

\b
Exit codes: 0 stopped as asked, all work done; 1 unexpected, or work was cut;
2 wrong usage or invalid manifest; 3 could not start; 4 handshake or required
channel failed; 5 orchestrator lost.
"""


class _Verbs(click.Group):
    """Loads a verb when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(import_module(f"pywatt_host.cli.{_VERBS[cmd_name][0]}"), cmd_name)
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
            hint = f'did you mean "{meant[0]}"?' if meant else f"there are: {', '.join(_VERBS)}"
            ctx.fail(f'no such command "{name}" ({hint})')
        return super().resolve_command(ctx, args)


@click.group(cls=_Verbs, epilog=_EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pywatt-host", message="%(prog)s %(version)s")
def cli() -> None:
    """Serve any ASGI or WSGI application as one pywatt.yaml declares it."""


def execute(arguments: Sequence[str] | None = None, module: Decorated | None = None) -> int:
    """Run the command line and give its exit code. `module` is a decorated function that `run` is for."""
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
    """Run the command line and exit with its code."""
    sys.exit(execute(arguments))
