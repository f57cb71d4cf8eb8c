"""What `validate` finds out about certificates and keys: with the code that verifies them when the host starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest import Loaded, Problem
from pywatt_host.manifest.checks.left_out import LeftOut
from pywatt_host.manifest.model.channels import ClientTls
from pywatt_host.manifest.model.tls import ServerTls
from pywatt_host.manifest.problems import KeyPath, Severity, display_path
from pywatt_host.manifest.values import SecretTemplate
from pywatt_host.manifest.yaml.node import Node

_SOON = timedelta(days=14)  # before a certificate expires
_HINTS = {
    "missing": "the path is relative to the manifest's folder",
    "mismatch": "give the key that the certificate was requested with",
    "expired": "renew it; a host that runs already goes on with it, and its clients refuse it",
}


@dataclass(frozen=True, slots=True)
class _Section:
    """A TLS section of the manifest. `authority` is the key of its CA certificates."""

    path: KeyPath
    tls: ServerTls | ClientTls
    authority: Literal["client_ca", "ca"]

    @property
    def key(self) -> str:
        return display_path(self.path)


def _sections(loaded: Loaded) -> Iterator[_Section]:
    manifest = loaded.manifest
    for declared in manifest.server.declared_tls():
        yield _Section(declared.path, declared.tls, "client_ca")
    tcp, nats = manifest.channels.tcp, manifest.channels.nats
    if tcp is not None and tcp.tls is not None:
        yield _Section(("channels", "tcp", "tls"), tcp.tls, "client_ca" if tcp.tls.client_ca is not None else "ca")
    if nats is not None and nats.tls is not None:
        yield _Section(("channels", "nats", "tls"), nats.tls, "ca")
    for number, service in enumerate(manifest.services.static):
        if service.tls is not None:
            yield _Section(("services", "static", number, "tls"), service.tls, "ca")


def _written_sections(loaded: Loaded) -> Iterator[tuple[KeyPath, Node]]:
    """The TLS sections as they are written, faulty or not."""
    paths: list[KeyPath] = [("server", "tls"), ("server", "admin", "tls"), ("channels", "tcp", "tls")]
    paths.append(("channels", "nats", "tls"))
    for entries in (("server", "listen"), ("services", "static")):
        listed = _written(loaded.document, entries)
        if listed is not None and isinstance(listed.value, list):
            paths += [(*entries, number, "tls") for number in range(len(listed.value))]
    for path in paths:
        node = _written(loaded.document, path)
        if node is not None and isinstance(node.value, dict):
            yield path, node


def _written(node: Node, path: KeyPath) -> Node | None:
    """The node at a path, also where a value on the way was left out because of a fault."""
    for part in path:
        value = node.value
        if not (isinstance(value, list) if isinstance(part, int) else isinstance(value, dict) and part in value):
            return None
        node = value[part]
    return node


def _is_file_name(value: object) -> bool:
    """Whether this is neither a secret nor PEM text."""
    return (
        isinstance(value, str) and bool(value) and not any(each in value for each in ("${", "-----BEGIN", "\n", "\0"))
    )


class Certificates:
    """The certificates and keys of a manifest. `secret_values` has the values of secrets as far as they are known;
    parts in other secrets are not checked."""

    def __init__(
        self,
        loaded: Loaded,
        secret_values: Mapping[str, str],
        now: datetime | None = None,
        *,
        left_out: LeftOut | None = None,
    ) -> None:
        """`left_out`: which sections are faulty, and are therefore not looked at."""
        self._loaded = loaded
        self._left_out = left_out
        self._secret_values = secret_values
        self._now = now or datetime.now(UTC)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with them, and what will be soon."""
        for section in _sections(self._loaded):
            if self._left_out is None or not self._left_out.touches(section.path):
                yield from self._pair(section)
                yield from self._exposed(section)
        yield from self._in_faulty_sections()

    def handshakes(self) -> Iterator[Problem | str]:
        """A handshake with each listener's certificate, in this process, with a client that trusts it. Gives a line
        about the certificate, or what went wrong; nothing for those that `problems` is about."""
        checking = import_module("pywatt_host.net.tls_handshake")
        for section in _sections(self._loaded):
            if not isinstance(section.tls, ServerTls):
                continue
            try:
                material = self._material(section)
                verified = self._verified(section, material) if material is not None else None
            except TlsError:
                continue
            if material is None or verified is None:
                continue
            names = self._names(section)
            try:
                yield f"{section.key}: {checking.handshake(material, names.key, names.cert)}"
            except TlsError as error:
                yield self._problem(section, error)

    # The parts --------------------------------------------------------------------------------------------------------

    def _pair(self, section: _Section) -> Iterator[Problem]:
        """Verify a certificate with its key, and the CA certificates. Gives the problem of each file."""
        authority = None
        try:
            authority = self._content(section, section.authority)
            if authority is not None:
                self._certificates_of(section, section.authority, authority)
        except TlsError as error:
            authority = None
            yield self._problem(section, error)
        contents: list[bytes | None] = []
        for key in ("cert", "key"):
            try:
                contents.append(self._content(section, key))
            except TlsError as error:
                contents.append(None)
                yield self._problem(section, error)
        chain, private = contents
        try:
            if chain is not None and private is None:
                self._certificates_of(section, "cert", chain)
            elif chain is not None and private is not None:
                yield from self._times(section, self._material_of(section, chain, private, authority))
        except TlsError as error:
            yield self._problem(section, error)

    def _times(self, section: _Section, material: Any) -> Iterator[Problem]:
        """Verify a pair, and warn about a certificate that expires soon. Raises TlsError."""
        _, validity = self._verified(section, material)
        names = self._names(section)
        import_module("pywatt_host.net.tls_material").check_time(validity, names, self._now)
        left = validity.not_after - self._now
        if left <= _SOON:
            shown = import_module("pywatt_host.net.tls_material").shown_time(validity.not_after)
            message = f"{names.cert} expires in {_days(left)}, on {shown}"
            hint = "renew it; the host uses the new one as soon as the file or secret changes"
            yield self._at((*section.path, "cert"), "tls-expires-soon", message, hint, "warning")

    def _in_faulty_sections(self) -> Iterator[Problem]:
        """The files that cannot be read, of sections that have another fault, such as a missing `key`."""
        if self._left_out is None:
            return
        for path, node in _written_sections(self._loaded):
            if not self._left_out.touches(path):
                continue
            faulty = self._left_out.parts(path)
            for key in ("cert", "key", "client_ca", "ca"):
                part = node.value.get(key)
                if part is None or part.unset or (key,) in faulty or not _is_file_name(part.value):
                    continue
                shown = part.shown() if part.masked else str(part.value)
                place = display_path((*path, key))
                read_file = import_module("pywatt_host.net.tls_sources").read_file
                try:
                    read_file(self._loaded.manifest.resolve, part.value, place, shown)
                except TlsError as error:
                    hint, message = _HINTS.get(error.reason, ""), f"{error.file}: {error.message}"
                    yield part.problem((*path, key), f"tls-{error.reason}", message, hint)

    def _material(self, section: _Section) -> Any:
        """The material of a section; None without a certificate and key, or where they are not known. Raises TlsError
        for a file that cannot be read."""
        authority = self._content(section, section.authority)
        chain, key = self._content(section, "cert"), self._content(section, "key")
        return self._material_of(section, chain, key, authority) if chain is not None and key is not None else None

    def _material_of(self, section: _Section, chain: bytes, key: bytes, authority: bytes | None) -> Any:
        material = import_module("pywatt_host.net.tls_material").TlsMaterial
        tls = section.tls
        if isinstance(tls, ServerTls):
            demands = tls.demands if authority is not None else "none"
            return material(chain, key, authority, demands, tls.min_version)
        return material(chain, key, authority, "required" if authority is not None else "none")

    def _certificates_of(self, section: _Section, key: str, content: bytes) -> None:
        import_module("pywatt_host.net.tls_material").certificates(
            content, f"{section.key}.{key}", self._shown(section, key)
        )

    def _verified(self, section: _Section, material: Any) -> Any:
        return import_module("pywatt_host.net.tls_material").verified(material, self._names(section))

    def _names(self, section: _Section) -> Any:
        names = import_module("pywatt_host.net.tls_material").Names
        shown = [self._shown(section, key) for key in ("cert", "key", section.authority)]
        return names(section.key, *shown)

    def _shown(self, section: _Section, key: str) -> str:
        """How messages name a file: a value from a variable by the variable."""
        value = getattr(section.tls, key)
        node, _ = self._loaded.node_at((*section.path, key))
        return node.shown() if node.masked and isinstance(value, str) else str(value)

    def _content(self, section: _Section, key: str) -> bytes | None:
        """The PEM text of a part; None where there is none, or its secret or variable is not known. Raises TlsError."""
        value = getattr(section.tls, key)
        if value is None or self._loaded.node_at((*section.path, key))[0].unset:
            return None
        if isinstance(value, SecretTemplate):
            return (
                value.render(self._secret_values).encode() if self._secret_values.keys() >= set(value.names) else None
            )
        read_file = import_module("pywatt_host.net.tls_sources").read_file
        resolve = self._loaded.manifest.resolve
        content: bytes = read_file(resolve, value, f"{section.key}.{key}", self._shown(section, key))
        return content

    def _exposed(self, section: _Section) -> Iterator[Problem]:
        """A warning where every user of this machine can read the key."""
        value = section.tls.key
        if isinstance(value, str) and everybody_reads(self._loaded.manifest.resolve(value)):
            message = f"every user of this machine can read {self._shown(section, 'key')}"
            self_made = "remove the permission, such as with `chmod o-r`"
            yield self._at((*section.path, "key"), "tls-key-exposed", message, self_made, "warning")

    # Problems ---------------------------------------------------------------------------------------------------------

    def _problem(self, section: _Section, error: TlsError) -> Problem:
        path = (*section.path, error.key.rpartition(".")[2])
        return self._at(path, f"tls-{error.reason}", f"{error.file}: {error.message}", _HINTS.get(error.reason, ""))

    def _at(self, path: KeyPath, code: str, message: str, hint: str = "", severity: Severity = "error") -> Problem:
        node, written = self._loaded.node_at(path)
        return node.problem(written, code, message, hint, severity=severity)


def everybody_reads(path: Path) -> bool:
    """Whether every user of this machine can read a file: by its own permissions and those of the folders above it."""
    try:
        real = Path(os.path.realpath(path))
        if not real.stat().st_mode & stat.S_IROTH:
            return False
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in real.parents)
    except (OSError, ValueError):
        return False


def _days(left: timedelta) -> str:
    hours = int(left.total_seconds() // 3600)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"
