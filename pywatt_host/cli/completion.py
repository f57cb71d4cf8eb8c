"""`completion`: shell completion scripts, which click generates."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      pywatt-host completion bash > ~/.local/share/bash-completion/completions/pywatt-host
      pywatt-host completion fish > ~/.config/fish/completions/pywatt-host.fish
    """
    root = ctx.find_root()
    make = get_completion_class(shell)
    assert make is not None
    click.echo(make(root.command, {}, "pywatt-host", "_PYWATT_HOST_COMPLETE").source())
