"""Reads environment variables and dotenv files with pydantic-settings.

Importing pydantic-settings takes longer than importing the rest of the manifest package. So this is a separate module,
which is imported only if there is a dotenv file or a `PYWATT__` variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict


class _Overrides(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="PYWATT__",
        env_nested_delimiter="__",
        case_sensitive=True,
        extra="allow",
    )


class _Source(DotEnvSettingsSource):
    """Reads the given environment instead of the environment of the process."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(_Overrides, env_file=None)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return dict(self._environ)


def read_dotenv(path: Path) -> dict[str, str]:
    """Read the variables of a dotenv file. Raises OSError or UnicodeDecodeError if the file cannot be read."""
    with path.open("rb"):  # raises for a missing file, which pydantic-settings would ignore
        source = DotEnvSettingsSource(_Overrides, env_file=path)
    return {name: value for name, value in source.env_vars.items() if value is not None}


def read_overrides(environ: Mapping[str, str]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Map each path in the manifest, as the variable spells it, to the variable's name and value."""
    source = _Source(environ)
    prefix, delimiter = source.env_prefix, source.env_nested_delimiter or "__"
    return {
        tuple(name.removeprefix(prefix).split(delimiter)): (name, value or "")
        for name, value in source.env_vars.items()
        if name.startswith(prefix)
    }
