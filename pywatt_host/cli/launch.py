"""Running a decorated function from Python: what the command line does, with the function at hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from pywatt_host.app.decorated import Decorated
from pywatt_host.cli import execute, main


def run_module(module: Decorated, arguments: Sequence[str] = ()) -> int:
    """Run a decorated function until it is stopped, as `pywatt-host run` does; `arguments` are that verb's, such as
    `["--listen", ":9000"]`. Returns the exit code. The process is its own: signals are handled, and a second one, or
    work that hangs at the shutdown limit, ends it."""
    return execute(["run", *arguments], module)


def run_script(path: str) -> NoReturn:
    """Run the decorated function of a file that Python runs as a script, with its arguments as those of
    `pywatt-host run`, and leave."""
    if not path.endswith(".py") or not os.path.isfile(path):
        message = "only a file named like my_module.py runs its decorated function"
        click.echo(f"{path}: {message} (rename it, or give the function of another file to run_module)", err=True)
        sys.exit(2)
    main(["run", path, *sys.argv[1:]])
