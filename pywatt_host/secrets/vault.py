"""Secrets in HashiCorp Vault or OpenBao: secrets engine KV version 2, by hvac (extra `vault`)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from pywatt_host.exceptions import SecretError
from pywatt_host.manifest.model.secrets import Vault
from pywatt_host.secrets.source import read_text, without_last_newline

_TIMEOUT = 5.0  # seconds
_FRESH = 1.0  # seconds in which what was read serves for further names


class VaultSource:
    """The members of one secret in Vault are the secrets here. The token is the setting's, VAULT_TOKEN, or that in
    `token_file`, which is read anew each time since agents renew it."""

    watched = True

    def __init__(self, settings: Vault, directory: Path, environ: Mapping[str, str]) -> None:
        self.label = f"vault {settings.path}"
        self._settings = settings
        self._directory = directory
        self._environ = environ
        self._read: tuple[float, dict[str, str] | SecretError] | None = None
        self._lock = asyncio.Lock()

    async def get(self, name: str) -> str | None:
        async with self._lock:
            if self._read is None or time.monotonic() - self._read[0] > _FRESH:
                try:
                    found: dict[str, str] | SecretError = await asyncio.to_thread(self._load)
                except SecretError as error:
                    found = error  # for the other names too: each would wait for a server that does not answer
                self._read = (time.monotonic(), found)
            found = self._read[1]
        if isinstance(found, SecretError):
            raise SecretError(found.message) from found
        return found.get(name)

    def identity(self) -> object:
        """There is no cheap sign of a change: the time makes every look a reading."""
        return time.monotonic()

    def _load(self) -> dict[str, str]:
        try:
            hvac = import_module("hvac")
        except ImportError:
            raise SecretError(f"{self.label} needs the extra: pip install 'pywatt-host[vault]'") from None
        settings = self._settings
        mount, _, path = settings.path.strip("/").partition("/")
        if not path:
            raise SecretError(f"{self.label}: write the mount and the path in it, such as secret/users")
        token = self._token()
        if not token:
            raise SecretError(f"{self.label}: there is no token; set VAULT_TOKEN, or token or token_file of the source")
        verify = str(self._directory / settings.ca) if settings.ca is not None else True
        if isinstance(verify, str) and not Path(verify).is_file():
            raise SecretError(f"{self.label}: there is no file {settings.ca} with certificates")
        client = hvac.Client(
            url=settings.address, token=token, namespace=settings.namespace, timeout=_TIMEOUT, verify=verify
        )
        try:
            answer = client.secrets.kv.v2.read_secret_version(
                path=path, mount_point=mount, raise_on_deleted_version=True
            )
        except hvac.exceptions.InvalidPath:
            return {}
        except hvac.exceptions.Forbidden:
            raise SecretError(f"{self.label}: the token may not read it (403)") from None
        except hvac.exceptions.VaultError as error:
            raise SecretError(f"{self.label}: Vault answered {type(error).__name__}") from None
        except OSError as error:  # all that requests raises is one
            raise SecretError(f"{self.label}: {settings.address} cannot be reached ({type(error).__name__})") from None
        finally:
            client.adapter.close()
        try:
            values = answer["data"]["data"]
            return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        except (AttributeError, KeyError, TypeError):  # something else listens there
            raise SecretError(f"{self.label}: the answer is not that of KV version 2") from None

    def _token(self) -> str | None:
        if self._settings.token is not None:
            return self._settings.token
        if self._settings.token_file is not None:
            text = read_text(self._directory / self._settings.token_file, f"{self.label}: the token file")
            if text is None:
                raise SecretError(f"{self.label}: there is no token file {self._settings.token_file}")
            return without_last_newline(text)
        return self._environ.get("VAULT_TOKEN")
