"""What several verbs share: the choice of the manifest, its overrides, and how its errors are shown."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pywatt_host.cli.terminal import echo
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Loaded, Source, as_json, load, render_text
from pywatt_host.manifest.load import Examined, InitLayer, examine
from pywatt_host.manifest.problems import Problem
from pywatt_host.manifest.values import IMPORT_PATTERN
from pywatt_host.manifest.values.names import Script, script_of

if TYPE_CHECKING:
    from pywatt_host.app.decorated import Decorated

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Selection:
    """The manifest that a verb works on."""

    target: str | None
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    env_file: Path | None = None
    decorated: Decorated | None = None

    def source(self) -> Source:
        return source_of(self.target) if self.decorated is None else self.decorated.source()

    def script(self) -> Script | None:
        """The Python file that the target names, or None if it names something else."""
        return _script(_target(self.target))

    def with_function(self, module: Decorated | None = None) -> Selection:
        """The same selection with its decorated function. If the target is a Python file, the file is imported in this
        process. Raises AppLoadError, and ManifestError for an invalid decorator."""
        script = self.script() if module is None else None
        if script is not None:
            module = import_module("pywatt_host.decorator.scripts").load_script(script)
        return replace(self, decorated=module)

    def examine(self, *, allow_unset: bool = False) -> Examined:
        """Read the manifest as far as it can be read. Raises AppLoadError and ManifestError only for a Python file."""
        return examine(
            self.source(),
            profile=self.profile,
            overrides=self.overrides,
            env_file=self.env_file,
            allow_unset=allow_unset,
        )

    def load(self, *, allow_unset: bool = False, init: InitLayer | None = None) -> Loaded:
        """Load the manifest. Raises ManifestError."""
        loaded = load(
            self.source(),
            profile=self.profile,
            overrides=self.overrides,
            env_file=self.env_file,
            allow_unset=allow_unset,
            init=init,
        )
        if self.decorated is not None:
            self.decorated.check_is_app_of(loaded.manifest)
        return loaded


def _target(target: str | None) -> str:
    return target or os.environ.get("PYWATT_MANIFEST") or "pywatt.yaml"


def _script(target: str) -> Script | None:
    return None if Path(target).is_dir() else script_of(target)


def source_of(target: str | None) -> Source:
    """The source that `target` names: a manifest, a folder with one, `module:app`, or a Python file with a decorated
    function, which is imported in a child process. Without a target: PYWATT_MANIFEST, else ./pywatt.yaml. Raises
    AppLoadError for a Python file without a decorated function, and ManifestError for an invalid decorator."""
    target = _target(target)
    script = _script(target)
    if script is not None:
        described: Source = import_module("pywatt_host.cli.inspection").describe(script)
        return described
    if re.match(IMPORT_PATTERN, target) and not Path(target).exists():
        return Source.of_data({"app": target}, name=target, directory=Path.cwd())
    return Source.file(target)


def manifest_options(command: F) -> F:
    """Add the argument and the options that choose a manifest. The command receives them as one Selection."""

    @click.argument("target", metavar="[MANIFEST|FOLDER|MODULE:APP|FILE.py]", required=False)
    @click.option("--profile", metavar="NAME", help="Profile of the manifest. Default: PYWATT_PROFILE.")
    @click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a key, such as server.limits.body=1GiB. Can be repeated.",
    )
    @click.option(
        "--env-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Read variables for ${VAR} from FILE; variables of the environment win.",
    )
    @functools.wraps(command)
    def wrapped(
        target: str | None, profile: str | None, overrides: tuple[str, ...], env_file: Path | None, **more: Any
    ) -> Any:
        return command(selection=Selection(target, profile, overrides, env_file), **more)

    return wrapped  # type: ignore[return-value]  # click's decorators give back what they get


def coloured(stream: Any) -> bool:
    return "NO_COLOR" not in os.environ and bool(stream.isatty())


def show_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    """Print errors and warnings as readable text on standard error."""
    sys.stderr.write(render_text(problems, color=coloured(sys.stderr)))


def progress(line: str) -> None:
    """Say on a terminal what a verb waits for."""
    if sys.stderr.isatty():
        echo(line, err=True)


def loaded_or_exit(selection: Selection, *, as_json_document: bool = False, init: InitLayer | None = None) -> Loaded:
    """The loaded manifest. Errors in the manifest end the command with exit code 2."""
    try:
        return selection.load(init=init)
    except ManifestError as error:
        if as_json_document:
            click.echo(json.dumps(as_json(error.problems), indent=2))
        else:
            show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
    except AppLoadError as error:
        click.echo("\n".join([str(error), *getattr(error, "__notes__", ())]), err=True)
        raise click.exceptions.Exit(error.exit_code) from None
