"""Makes the sources that `secrets.sources` declares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pywatt_host.manifest.model.secrets import SecretSource as Declared
from pywatt_host.secrets.source import SecretSource

Fetch = Callable[[str], Awaitable[str]]


def make_sources(
    declared: Sequence[Declared] | None,
    *,
    directory: Path,
    environ: Mapping[str, str],
    fetch: Fetch | None,
    dotenv: bool = False,
) -> list[SecretSource]:
    """Return the sources in the order in which they are searched.

    If `declared` is None, they are the orchestrator (if `fetch` is given), the environment, and with `dotenv` the file
    .env. A declared orchestrator source is left out if there is no orchestrator, which means that `fetch` is None.
    """
    if declared is None:
        declared = [Declared(kind="orchestrator"), Declared(kind="env")]
        declared += [Declared(dotenv=".env")] if dotenv else []
    found = [_made(each, directory, environ, fetch) for each in declared]
    return [source for source in found if source is not None]


def _made(declared: Declared, directory: Path, environ: Mapping[str, str], fetch: Fetch | None) -> SecretSource | None:
    source: SecretSource
    if declared.kind == "orchestrator":
        if fetch is None:
            return None
        source = _load("orchestrator").OrchestratorSource(fetch)
    elif declared.kind == "env":
        source = _load("environment").EnvironmentSource(environ)
    elif declared.dotenv is not None:
        source = _load("environment").DotenvSource(directory / declared.dotenv, declared.dotenv)
    elif declared.directory is not None:
        source = _load("files").DirectorySource(directory / declared.directory, declared.directory)
    elif declared.file is not None:
        source = _load("files").FileSource(directory / declared.file, declared.file)
    elif declared.command is not None:
        source = _load("command").CommandSource(declared.command, directory, environ)
    else:
        source = _load("vault").VaultSource(declared.vault, directory, environ)
    return source


def _load(name: str) -> Any:
    return import_module(f"pywatt_host.secrets.{name}")
