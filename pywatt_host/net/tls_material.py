"""What a TLS listener needs of the world: its certificate, its key, and the CA certificates of its clients.

`TlsMaterial` is what a process can hand to another one; `TlsTerms` is what connections are accepted with. A renewed
certificate gives new terms beside the old ones, with keys for session tickets of their own: a session that began under
the old terms is never resumed under the new ones.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pywatt_host.exceptions import TlsError
from pywatt_host.manifest.model.tls import TlsVersion

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Demands: TypeAlias = Literal["required", "optional", "none"]

# Forward secrecy and authenticated encryption only; the suites of TLS 1.3 all have both.
_CIPHERS = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20"
_PROTOCOLS = ["http/1.1"]
_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """A certificate chain with its key, PEM; and what is demanded of clients."""

    chain: bytes = field(repr=False)  # a combined file has the key as well
    key: bytes = field(repr=False)
    client_ca: bytes | None = None
    demands: Demands = "none"
    min_version: TlsVersion = "1.2"

    @property
    def strictness(self) -> tuple[object, ...]:
        """What decides which clients are accepted."""
        return self.client_ca, self.demands, self.min_version

    def context(self) -> ssl.SSLContext:
        """A new context for a server. Raises ssl.SSLError, as for a key that does not belong to the certificate, and
        ValueError for a key that is encrypted."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _MINIMUM[self.min_version]
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(_PROTOCOLS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        with _as_file(self.chain) as chain, _as_file(self.key) as key:
            context.load_cert_chain(chain, key, password=_no_password)
        context.verify_mode = _VERIFY[self.demands]
        if self.client_ca is not None:
            context.load_verify_locations(cadata=self.client_ca.decode("ascii"))
        return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The content as a file that only this process can read: in memory where the system can do that."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    descriptor, path = import_module("tempfile").mkstemp()  # with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        yield path
    finally:
        os.unlink(path)


class TlsTerms:
    """What connections are accepted with, which never changes: a context, and what scopes say of it."""

    def __init__(self, material: TlsMaterial, context: ssl.SSLContext | None = None) -> None:
        """`context` is the one of `material`, where it was made already. Raises as `TlsMaterial.context`."""
        self.material = material
        self.context = context or material.context()
        self.server_cert = _first_pem(material.chain)
        self.suites = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in self.context.get_ciphers()}

    def holds_for(self, other: TlsTerms) -> bool:
        """Whether a client that was accepted with `other` would be accepted with these terms."""
        return self.material.strictness == other.material.strictness


def _first_pem(chain: bytes) -> str:
    text = chain.decode("ascii", "replace")
    end = "-----END CERTIFICATE-----"
    return text[text.find("-----BEGIN CERTIFICATE-----") : text.find(end) + len(end)] + "\n"


class ListenerTls:
    """The terms of a listener, as they are now. `key` is where the manifest has its TLS settings."""

    def __init__(self, key: str, terms: TlsTerms | None = None) -> None:
        self.key = key
        self._terms = terms
        self._followers: list[Callable[[], None]] = []

    @property
    def terms(self) -> TlsTerms:
        """The terms for the next connection."""
        assert self._terms is not None, "the certificates have not been loaded"
        return self._terms

    def use(self, terms: TlsTerms) -> None:
        """Accept connections with these terms from now on. Those that there are keep theirs."""
        self._terms = terms
        for changed in tuple(self._followers):
            changed()

    def follow(self, changed: Callable[[], None]) -> Callable[[], None]:
        """Call `changed` after each change of the terms. Returns what ends that."""
        self._followers.append(changed)
        return lambda: self._followers.remove(changed)


# Verifying ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Validity:
    """How long a chain is valid: from when, and until its first certificate expires."""

    not_before: datetime
    not_after: datetime

    def seconds_left(self, now: datetime) -> float:
        """Seconds until it expires; negative afterwards."""
        return (self.not_after - now).total_seconds()


@dataclass(frozen=True, slots=True)
class Names:
    """What errors call the parts of a TLS section: its key, and the file or secret of each part."""

    key: str
    cert: str
    private_key: str
    client_ca: str = ""


def verified(material: TlsMaterial, names: Names) -> tuple[TlsTerms, Validity]:
    """The terms of a material that can be used, and how long its chain is valid. Whether it is valid now is not
    checked. Raises TlsError, which names the file and the reason, and no other exception, whatever the files have."""
    try:
        return _verified(material, names)
    except TlsError:
        raise
    except Exception as error:  # named boundary: the parsers of hostile input; no file ends the host
        why = f"it cannot be read ({type(error).__name__})"
        raise TlsError(f"{names.key}.cert", names.cert, "invalid", why) from error


def _verified(material: TlsMaterial, names: Names) -> tuple[TlsTerms, Validity]:
    chain = certificates(material.chain, f"{names.key}.cert", names.cert)
    key = _private_key(material.key, f"{names.key}.key", names.private_key)
    if not _belong(key, chain[0]):
        if any(_belong(key, each) for each in chain[1:]):
            why = "the certificate of the key must be the first one in the file, before those of its issuers"
            raise TlsError(f"{names.key}.cert", names.cert, "order", why)
        why = f"it is not the key of the certificate in {names.cert}"
        raise TlsError(f"{names.key}.key", names.private_key, "mismatch", why)
    if material.client_ca is not None:
        certificates(material.client_ca, f"{names.key}.client_ca", names.client_ca)
    try:
        terms = TlsTerms(material)
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
        raise TlsError(f"{names.key}.cert", names.cert, "invalid", f"OpenSSL refuses it: {reason}") from error
    return terms, Validity(
        max(each.not_valid_before_utc for each in chain), min(each.not_valid_after_utc for each in chain)
    )


def check_time(validity: Validity, names: Names, now: datetime) -> None:
    """Raise TlsError for a chain that has expired, or is not valid yet."""
    if validity.not_after <= now:
        why = f"it has expired on {shown_time(validity.not_after)}"
        raise TlsError(f"{names.key}.cert", names.cert, "expired", why)
    if validity.not_before > now:
        why = f"it is not valid before {shown_time(validity.not_before)}"
        raise TlsError(f"{names.key}.cert", names.cert, "not-yet-valid", why)


def shown_time(moment: datetime) -> str:
    """A moment as messages show it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def certificates(pem: bytes, key: str, file: str) -> list[Certificate]:
    """The certificates in a PEM text. Raises TlsError, with the manifest key and the file."""
    if not pem.strip():
        raise TlsError(key, file, "empty", "it is empty")
    begun, ended = pem.count(b"-----BEGIN CERTIFICATE-----"), pem.count(b"-----END CERTIFICATE-----")
    if not begun:
        raise TlsError(key, file, "invalid", "it has no certificate in PEM form (-----BEGIN CERTIFICATE-----)")
    if begun != ended:
        raise TlsError(key, file, "truncated", "the last certificate in it is not complete")
    try:
        found: list[Certificate] = import_module("cryptography.x509").load_pem_x509_certificates(pem)
    except Exception as error:  # named boundary: the parser raises other errors too, such as for an unknown version
        raise TlsError(key, file, "invalid", "a certificate in it cannot be read") from error
    return found


def _private_key(pem: bytes, key: str, file: str) -> Any:
    if not pem.strip():
        raise TlsError(key, file, "empty", "it is empty")
    if b"-----BEGIN" not in pem or b"PRIVATE KEY-----" not in pem:
        raise TlsError(key, file, "invalid", "it has no private key in PEM form (-----BEGIN PRIVATE KEY-----)")
    if b"-----END" not in pem:
        raise TlsError(key, file, "truncated", "the key in it is not complete")
    try:
        return import_module("cryptography.hazmat.primitives.serialization").load_pem_private_key(pem, None)
    except TypeError as error:
        why = "the key is encrypted; write it without a password (openssl pkey -in KEY -out KEY.plain)"
        raise TlsError(key, file, "encrypted", why) from error
    except (ValueError, import_module("cryptography.exceptions").UnsupportedAlgorithm) as error:
        raise TlsError(key, file, "invalid", "the key in it cannot be read") from error


def _belong(key: Any, certificate: Certificate) -> bool:
    serialization = import_module("cryptography.hazmat.primitives.serialization")
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    try:
        mine, theirs = key.public_key().public_bytes(*form), certificate.public_key().public_bytes(*form)
    except ValueError:  # a kind of key that the library does not know
        return False
    return bool(mine == theirs)
