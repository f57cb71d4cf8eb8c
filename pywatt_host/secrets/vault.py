"""Secrets in HashiCorp Vault or OpenBao, in the secrets engine KV version 2. Uses the package hvac (extra `vault`)."""

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
_CACHE_TTL = 1.0  # seconds for which one response of Vault is used for further names


class VaultSource:
    """Reads one secret in Vault; its members are the secrets of this host.

    The token comes from the setting `token`, from `token_file`, or from VAULT_TOKEN. The file is read again for each
    request, because agents renew it.
    """

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
            if self._read is None or time.monotonic() - self._read[0] > _CACHE_TTL:
                try:
                    found: dict[str, str] | SecretError = await asyncio.to_thread(self._load)
                except SecretError as error:
                    found = error  # for the other names too, or each of them would wait for a server that is down
                self._read = (time.monotonic(), found)
            found = self._read[1]
        if isinstance(found, SecretError):
            raise SecretError(found.message) from found
        return found.get(name)

    def identity(self) -> object:
        """The time, because there is no cheap way to see a change: every check reads the secret."""
        return time.monotonic()

    def _load(self) -> dict[str, str]:
        try:
            hvac = import_module("hvac")
        except ImportError:
            raise SecretError(f"{self.label} needs an extra: pip install 'pywatt-host[vault]'") from None
        settings = self._settings
        mount, _, path = settings.path.strip("/").partition("/")
        if not path:
            raise SecretError(f"{self.label}: the path needs the mount and the path in it, such as secret/users")
        token = self._token()
        if not token:
            raise SecretError(f"{self.label}: there is no token; set VAULT_TOKEN, or token or token_file of the source")
        verify = str(self._directory / settings.ca) if settings.ca is not None else True
        if isinstance(verify, str) and not Path(verify).is_file():
            raise SecretError(f"{self.label}: there is no certificate file {settings.ca}")
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
            raise SecretError(f"{self.label}: the token has no permission to read it (403)") from None
        except hvac.exceptions.VaultError as error:
            raise SecretError(f"{self.label}: Vault answered {type(error).__name__}") from None
        except OSError as error:  # every exception of requests is one
            raise SecretError(f"{self.label}: {settings.address} is not reachable ({type(error).__name__})") from None
        finally:
            client.adapter.close()
        try:
            values = answer["data"]["data"]
            return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        except (AttributeError, KeyError, TypeError):  # another server listens at the address
            raise SecretError(f"{self.label}: the answer does not have the format of KV version 2") from None

    def _token(self) -> str | None:
        if self._settings.token is not None:
            return self._settings.token
        if self._settings.token_file is not None:
            text = read_text(self._directory / self._settings.token_file, f"{self.label}: the token file")
            if text is None:
                raise SecretError(f"{self.label}: there is no token file {self._settings.token_file}")
            return without_last_newline(text)
        return self._environ.get("VAULT_TOKEN")
