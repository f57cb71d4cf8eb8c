"""Checks of `tracing`: credentials that others could read on their way to the endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import urlsplit

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.workspace import Workspace
from pywatt_host.manifest.problems import KeyPath, Severity
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.manifest.values.addresses import is_loopback

Add: TypeAlias = Callable[[KeyPath, str, str, str, Severity], None]


class TracingChecks:
    """Warns with `add`. `unset` says whether a value was left out because a variable is not set."""

    def __init__(self, document: Manifest | Workspace, add: Add, unset: Callable[[KeyPath], bool]) -> None:
        self._document = document
        self._add = add
        self._unset = unset

    def check(self) -> None:
        tracing, path = self._document.tracing, ("tracing", "endpoint")
        if tracing is None or tracing.endpoint is None or self._unset(path):
            return
        url = urlsplit(tracing.endpoint)
        if "@" in url.netloc:
            message = "the user and the password in this URL are not sent"
            hint = 'set headers: {authorization: "${secret:NAME}"} and remove them here'
            self._add(path, "tracing-credentials", message, hint, "warning")
        secret = [name for name, value in tracing.headers.items() if isinstance(value, SecretTemplate)]
        if secret and url.scheme == "http" and not is_loopback(url.hostname or ""):
            message = f"the secret in the header {secret[0]} is sent without TLS: others on the way can read it"
            self._add(path, "tracing-without-tls", message, "use https", "warning")
