"""Runs a decorated function from Python, as the command line does for a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from pywatt_host.app.decorated import Decorated
from pywatt_host.cli import execute, main


def run_module(module: Decorated, arguments: Sequence[str] = ()) -> int:
    """Run a decorated function until it is stopped, as `pywatt-host run` does, and return the exit code.

    `arguments` are options of that verb, such as `["--listen", ":9000"]`. The function takes over the process: it
    handles signals, and a second signal, or work that hangs at the shutdown limit, ends the process.

    >>> from pywatt_host import AppState, pywatt_module, run_module
    >>> @pywatt_module()
    ... def create_app(app_state: AppState):
    ...     async def app(scope, receive, send): ...
    ...     return app
    >>> def main() -> None:
    ...     sys.exit(run_module(create_app, ["--listen", ":9000"]))
    """
    return execute(["run", *arguments], module)


def run_script(path: str) -> NoReturn:
    """Run the decorated function of a file that Python runs as a script, and exit.

    The arguments of the script are those of `pywatt-host run`.
    """
    if not path.endswith(".py") or not os.path.isfile(path):
        message = "this is not a Python file with a name such as my_module.py, so its decorated function cannot run"
        click.echo(f"{path}: {message}. Rename it, or pass the function to run_module.", err=True)
        sys.exit(2)
    main(["run", path, *sys.argv[1:]])
