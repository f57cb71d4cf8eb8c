"""Client certificates as credentials: what the certificate of a connection says becomes the identity of its requests.

The TLS handshake has verified the certificate before the first request: its chain, its dates, and that the client has
its key. Here its names decide.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pywatt_host.auth.identity import DeniedError, Identity
from pywatt_host.auth.scheme import Carrier, Loaded
from pywatt_host.exceptions import AuthError
from pywatt_host.manifest.model import AuthScheme
from pywatt_host.manifest.values.certificate_names import (
    CertificateNames,
    NameKind,
    PatternError,
    Rdn,
    parse_pattern,
)
from pywatt_host.net.client_certificates import client_certificate
from pywatt_host.types import Scope

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_CACHE_SIZE: Final = 1000  # certificates whose names were read


class MutualTlsScheme:
    """A scheme of type `mtls`. The identity of a certificate is found once, and not for each request.

    `clock` returns seconds since the epoch.
    """

    carrier: Carrier = "certificate"

    def __init__(self, name: str, options: AuthScheme, *, clock: Callable[[], float] = time.time) -> None:
        self.name = name
        self._key = f"auth.{name}.subjects"
        self._clock = clock
        try:
            self._patterns = [parse_pattern(text) for text in options.subjects or ()]
        except PatternError as error:
            raise AuthError(self._key, error.message, error.hint) from None
        # None: the certificate has none of the names. Certificates get here once their chain is verified.
        self._known: OrderedDict[bytes, Identity | None] = OrderedDict()

    def presented(self, scope: Scope) -> bytes | None:
        """Return the certificate in DER. Headers in which a proxy describes a certificate are not looked at."""
        extensions = scope.get("extensions")
        tls = extensions.get("tls") if extensions else None
        if not tls:
            return None
        certificate = client_certificate(scope)
        return certificate.der if certificate is not None else _told_by_server(tls)

    def accepts(self, credential: bytes) -> bool:
        try:
            return self._identity(credential) is not None
        except DeniedError:
            return False

    def recall(self, credential: bytes) -> Identity | None:
        identity = self._known.get(credential)
        return identity if identity is not None and self._clock() < identity.until else None

    async def verify(self, credential: bytes, client: str = "") -> Identity:
        identity = self._identity(credential)
        if identity is None:
            raise DeniedError("subject")
        if self._clock() >= identity.until:  # since the handshake
            raise DeniedError("expired")
        return identity

    def challenge(self, realm: str, error: str = "", scope: str = "") -> bytes:
        """No registered scheme fits (`Mutual` is for passwords, RFC 8120), but RFC 9110 section 11.6.1 requires a
        challenge."""
        return f'ClientCertificate realm="{realm}"'.encode("latin-1", "replace")

    def prepare(self, secret_values: Mapping[str, str]) -> Loaded:
        return _Nothing()

    def _identity(self, credential: bytes) -> Identity | None:
        """The identity of a certificate; None if it has none of the names. Raises DeniedError (`malformed`)."""
        if credential in self._known:
            return self._known[credential]
        found = self._known[credential] = self._read(credential)
        while len(self._known) > _CACHE_SIZE:
            self._known.popitem(last=False)
        return found

    def _read(self, credential: bytes) -> Identity | None:
        x509 = import_module("cryptography.x509")
        try:
            certificate: Certificate = x509.load_der_x509_certificate(credential)
            names = names_of(certificate)
            subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
            until = certificate.not_valid_after_utc.timestamp()
        except Exception:  # named boundary: the parser raises many kinds of errors, and warnings where they are errors
            raise DeniedError("malformed") from None
        alternatives = [f"{kind}:{name}" for kind, name in names.alternatives]
        if self._patterns:
            matches = (pattern.find(names) for pattern in self._patterns)
            match = next((subject if found == "" else found for found in matches if found is not None), "")
        else:
            match = subject or next(iter(alternatives), "")
        if not match:
            return None
        claims: dict[str, Any] = {
            "sub": match,
            "subject": subject,
            "issuer": issuer,
            "serial": f"{certificate.serial_number:x}",
            "sans": alternatives,
        }
        return Identity(self.name, "mtls", match, claims, until)


def _told_by_server(tls: Mapping[str, Any]) -> bytes | None:
    """The certificate that another server than the host's own has taken, in DER (the ASGI extension `tls`). Raises
    DeniedError if the server could not verify it, or if it cannot be read."""
    chain = list(tls.get("client_cert_chain") or ())
    if tls.get("client_cert_error"):
        raise DeniedError("untrusted")
    if not chain:
        return None
    try:
        der: bytes = import_module("ssl").PEM_cert_to_DER_cert(chain[0])
    except ValueError:
        raise DeniedError("malformed") from None
    return der


class _Nothing:
    """The scheme has no keys of its own: the listener has the authorities, and reads them again when they change."""

    def commit(self) -> None:
        return

    def discard(self) -> None:
        return


def names_of(certificate: Certificate) -> CertificateNames:
    """The names of a certificate. Raises ValueError where it cannot be read."""
    x509 = import_module("cryptography.x509")
    subject: list[Rdn] = []
    for rdn in reversed(certificate.subject.rdns):
        subject.append(frozenset((each.oid.dotted_string, _text(each.value)) for each in rdn))
    kinds: Mapping[type, NameKind] = {
        x509.DNSName: "DNS", x509.UniformResourceIdentifier: "URI", x509.RFC822Name: "email", x509.IPAddress: "IP",
    }  # fmt: skip
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = ()
    alternatives = [(kinds[type(name)], str(name.value)) for name in found if type(name) in kinds]
    return CertificateNames(tuple(subject), tuple(alternatives))


def _text(value: str | bytes) -> str | None:
    return value if isinstance(value, str) else None
