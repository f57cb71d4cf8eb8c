"""Reads certificates and keys from where a manifest says they are: files, and secrets with PEM text."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest.model.tls import DeclaredTls
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.net.tls_material import Names, TlsMaterial

_LONGEST = 1024 * 1024  # bytes of a file
_UNREADABLE = {errno.EACCES: "permission denied", errno.EPERM: "permission denied", errno.EISDIR: "it is a folder"}


class TlsSource:
    """Where the parts of one TLS section are. `resolve` makes a path of the manifest absolute."""

    def __init__(self, declared: DeclaredTls, resolve: Callable[[str], Path]) -> None:
        tls = declared.tls
        self.key = declared.key
        self.names = Names(declared.key, str(tls.cert), str(tls.key), str(tls.client_ca or ""))
        self._tls = tls
        self._resolve = resolve

    def _parts(self) -> Iterator[tuple[str, str | SecretTemplate]]:
        yield "cert", self._tls.cert
        yield "key", self._tls.key
        if self._tls.client_ca is not None:
            yield "client_ca", self._tls.client_ca

    def identity(self, secret_values: Mapping[str, str]) -> tuple[object, ...]:
        """What changes when any part does. Symbolic links are followed, so that the files of a mounted Secret count as
        changed when its link `..data` moves."""
        found: list[object] = []
        for _, part in self._parts():
            if isinstance(part, SecretTemplate):
                found.append(tuple(secret_values.get(name) for name in part.names))
                continue
            try:
                status = os.stat(self._resolve(part))
                found.append((status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size))
            except (OSError, ValueError) as error:
                found.append(str(error))
        return tuple(found)

    def read(self, secret_values: Mapping[str, str]) -> TlsMaterial:
        """Read all parts. Raises TlsError for one that is not there or not readable."""
        read = {name: self._read(name, part, secret_values) for name, part in self._parts()}
        return TlsMaterial(read["cert"], read["key"], read.get("client_ca"), self._tls.demands, self._tls.min_version)

    def _read(self, name: str, part: str | SecretTemplate, secret_values: Mapping[str, str]) -> bytes:
        key = f"{self.key}.{name}"
        if isinstance(part, SecretTemplate):
            try:
                return part.render(secret_values).encode("utf-8", "replace")
            except KeyError as error:
                raise TlsError(key, str(part), "missing", f"the secret {error.args[0]} has no value") from error
        return read_file(self._resolve, part, key, part)


def read_file(resolve: Callable[[str], Path], path: str, key: str, shown: str) -> bytes:
    """Read one file. `key` is the key of the manifest that names it, and `shown` is how errors call it. Raises TlsError
    where it is not there, not readable, or too large."""
    try:
        with open(resolve(path), "rb") as file:
            content = file.read(_LONGEST + 1)
    except FileNotFoundError as error:
        raise TlsError(key, shown, "missing", "there is no such file") from error
    except (OSError, ValueError) as error:
        number = error.errno if isinstance(error, OSError) else None
        why = _UNREADABLE.get(number or 0) or getattr(error, "strerror", None) or str(error)
        raise TlsError(key, shown, "unreadable", f"it cannot be read: {why}") from error
    if len(content) > _LONGEST:
        raise TlsError(key, shown, "invalid", "it is larger than 1 MiB")
    return content
