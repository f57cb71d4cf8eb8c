"""Secrets in environment variables and in dotenv files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from pywatt_host.exceptions import SecretError
from pywatt_host.secrets.source import stat_of


class EnvironmentSource:
    """Reads environment variables as they were at start, overridden by the orchestrator's `init.env`."""

    label = "env"
    watched = False

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    async def get(self, name: str) -> str | None:
        return self._environ.get(name)

    def identity(self) -> object:
        return None


class DotenvSource:
    """Reads a dotenv file. A file that does not exist has no secrets; that is not an error."""

    watched = True

    def __init__(self, path: Path, shown: str) -> None:
        self.label = f"dotenv {shown}"
        self._path = path

    async def get(self, name: str) -> str | None:
        return (await asyncio.to_thread(self._values)).get(name)

    def identity(self) -> object:
        return stat_of(self._path)

    def _values(self) -> dict[str, str]:
        try:
            values: dict[str, str] = import_module("pywatt_host.manifest.layers.environment").read_dotenv(self._path)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise SecretError(f"{self.label} could not be read: {(error.strerror or str(error)).lower()}") from error
        except UnicodeDecodeError:
            raise SecretError(f"{self.label} is not UTF-8 text") from None
        return values
