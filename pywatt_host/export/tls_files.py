"""The certificates that a manifest reads from files: where a deployment puts them, and how the host finds them there.

Each set of files gets a folder of its own with the names that Kubernetes, cert-manager and others use: `tls.crt` and
`tls.key`, and `ca.crt` for the CA certificates of clients. These are a set of their own: the `ca.crt` that cert-manager
writes beside a certificate is the CA of the server. Values from secrets come with the other secrets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pywatt_host.manifest.model import Manifest
from pywatt_host.manifest.model.tls import ServerTls
from pywatt_host.manifest.values import Address
from pywatt_host.manifest.values.addresses import dump_address

# The name of a set, and its files by the key of the manifest.
_SETS = {"tls": {"cert": "tls.crt", "key": "tls.key"}, "client-ca": {"client_ca": "ca.crt"}}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """One set of files. `name` is `tls` or `client-ca`, then `tls-2` and so on; `files` has the path of each in the
    manifest by its name in the deployment; `keys` are the places in the manifest that use them."""

    name: str
    files: Mapping[str, str]
    keys: tuple[str, ...]

    @property
    def pair(self) -> bool:
        """Whether certificate and key are both files."""
        return {"tls.crt", "tls.key"} <= self.files.keys()


def tls_files(manifest: Manifest) -> tuple[TlsFiles, ...]:
    """The sets of files of the listeners of a manifest, each once."""
    found: list[TlsFiles] = []
    for kind in _SETS:
        places: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for each in manifest.server.declared_tls():
            files = _files(each.tls, kind)
            if files:
                key = each.key if kind == "tls" else f"{each.key}.client_ca"
                places.setdefault(tuple(files.items()), []).append(key)
        for number, (files_of_set, keys) in enumerate(places.items()):
            found.append(TlsFiles(f"{kind}-{number + 1}" if number else kind, dict(files_of_set), tuple(keys)))
    return tuple(found)


def _files(tls: ServerTls, kind: str) -> dict[str, str]:
    values = {name: getattr(tls, key) for key, name in _SETS[kind].items()}
    return {name: value for name, value in values.items() if isinstance(value, str)}


@dataclass(frozen=True, slots=True)
class Placed:
    """The TLS settings of a manifest in a deployment. `place` says where a file of a set is there."""

    manifest: Manifest
    place: Callable[[TlsFiles, str], str]

    def variables(self) -> dict[str, str]:
        """The environment variables that make `server.tls` and `server.admin.tls` use the files of the deployment."""
        server = self.manifest.server
        found = self._of("PYWATT__SERVER__TLS", server.tls)
        return found | self._of("PYWATT__SERVER__ADMIN__TLS", server.admin.tls if server.admin is not None else None)

    def _of(self, prefix: str, tls: ServerTls | None) -> dict[str, str]:
        return {f"{prefix}__{key.upper()}": path for key, path in self._paths(tls).items()} if tls is not None else {}

    def _paths(self, tls: ServerTls) -> dict[str, str]:
        """Where the files of a section are in the deployment, by key."""
        found: dict[str, str] = {}
        for kind, names in _SETS.items():
            files = _files(tls, kind)
            for each in tls_files(self.manifest):
                if files and dict(each.files) == files:
                    found |= {key: self.place(each, name) for key, name in names.items() if name in files}
        return found

    @property
    def listeners_have_files(self) -> bool:
        """Whether any listener has TLS settings of its own that name files, so that `server.listen` has to be set."""
        own = map(self.manifest.server.own_tls, range(len(self.manifest.server.listen)))
        return any(isinstance(each, ServerTls) and bool(self._paths(each)) for each in own)

    def listener(self, number: int, address: Address, shown: str | dict[str, str] | None = None) -> Any:
        """A listener of the manifest at another address, in the form of the manifest. `shown` is how the address is
        written where that differs."""
        written = dump_address(address) if shown is None else shown
        own = self.manifest.server.own_tls(number)
        if own is None:
            return written
        if own == "off":
            return {"address": written, "tls": "off"}
        return {"address": written, "tls": {**own.model_dump(mode="json", exclude_unset=True), **self._paths(own)}}


def listed(listeners: Iterable[Any]) -> str:
    """The value of PYWATT__SERVER__LISTEN for these listeners."""
    found = list(listeners)
    return found[0] if len(found) == 1 and isinstance(found[0], str) else json.dumps(found)
