"""What several verbs share: which manifest, with which overrides, and how its faults are shown."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest import Loaded, Source, as_json, load, render_text
from pywatt_host.manifest.load import InitLayer
from pywatt_host.manifest.problems import Problem
from pywatt_host.manifest.values import IMPORT_PATTERN

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Selection:
    """Which manifest a verb works on."""

    target: str | None
    profile: str | None = None
    overrides: tuple[str, ...] = ()
    env_file: Path | None = None

    def source(self) -> Source:
        return source_of(self.target)

    def load(self, *, allow_unset: bool = False, init: InitLayer | None = None) -> Loaded:
        """Raises ManifestError."""
        return load(
            self.source(),
            profile=self.profile,
            overrides=self.overrides,
            env_file=self.env_file,
            allow_unset=allow_unset,
            init=init,
        )


def source_of(target: str | None) -> Source:
    """A manifest, a folder with one, or `module:app`; left out: PYWATT_MANIFEST, else ./pywatt.yaml."""
    import re

    target = target or os.environ.get("PYWATT_MANIFEST") or "pywatt.yaml"
    if re.match(IMPORT_PATTERN, target) and not Path(target).exists():
        return Source.of_data({"app": target}, name=target, directory=Path.cwd())
    if target.endswith(".py"):
        module = Path(target).stem
        raise click.UsageError(f'"{target}" is not a manifest; to serve an app in it, write "{module}:app"')
    return Source.file(target)


def manifest_options(command: F) -> F:
    """The argument and the options that choose a manifest; the command gets them as one Selection."""

    @click.argument("target", metavar="[MANIFEST|FOLDER|MODULE:APP]", required=False)
    @click.option("--profile", metavar="NAME", help="Profile of the manifest; PYWATT_PROFILE is the default.")
    @click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help="Override a key, such as server.limits.body=1GiB.",
    )
    @click.option(
        "--env-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Variables for ${VAR} in the manifest; those of the environment win.",
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
    """Faults and warnings for people, on standard error."""
    sys.stderr.write(render_text(problems, color=coloured(sys.stderr)))


def loaded_or_exit(selection: Selection, *, as_json_document: bool = False, init: InitLayer | None = None) -> Loaded:
    """The loaded manifest; its faults end the command with exit code 2."""
    try:
        return selection.load(init=init)
    except ManifestError as error:
        if as_json_document:
            click.echo(json.dumps(as_json(error.problems), indent=2))
        else:
            show_problems(error.problems)
        raise click.exceptions.Exit(2) from None
