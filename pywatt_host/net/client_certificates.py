"""The certificate that a client has shown in its TLS handshake, in the terms of those who decide by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, GeneralName

# In scope["extensions"]["tls"], beside the keys of the ASGI extension.
SCOPE_KEY = "pywatt.certificate"
CIPHER_KEY = "pywatt.cipher"  # OpenSSL's name of the suite


@dataclass(frozen=True)
class ClientCertificate:
    """A certificate that OpenSSL has verified against `client_ca`. `der` is its encoding (RFC 5280).

    The other fields are read from it with the first that is asked for.
    """

    der: bytes

    @cached_property
    def _parsed(self) -> Certificate:
        certificate: Certificate = import_module("cryptography.x509").load_der_x509_certificate(self.der)
        return certificate

    @cached_property
    def subject(self) -> str:
        """The subject's distinguished name, such as `CN=billing,O=Example` (RFC 4514). Empty if it cannot be read:
        OpenSSL has verified the certificate, and does not look at every name."""
        try:
            return self._parsed.subject.rfc4514_string()
        except ValueError:
            return ""

    @cached_property
    def issuer(self) -> str:
        """The issuer's distinguished name (RFC 4514). Empty if it cannot be read."""
        try:
            return self._parsed.issuer.rfc4514_string()
        except ValueError:
            return ""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The subject's alternative names, such as `DNS:billing.example`, `URI:spiffe://example/billing`,
        `email:ops@example.com` and `IP:10.0.0.5`. Other kinds are left out."""
        x509 = import_module("cryptography.x509")
        try:
            extension = self._parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except (x509.ExtensionNotFound, ValueError):  # it has none, or they cannot be read
            return ()
        kinds = {
            x509.DNSName: "DNS",
            x509.UniformResourceIdentifier: "URI",
            x509.RFC822Name: "email",
            x509.IPAddress: "IP",
        }
        found: list[GeneralName] = list(extension.value)
        return tuple(f"{kinds[type(each)]}:{each.value}" for each in found if type(each) in kinds)

    @cached_property
    def pem(self) -> str:
        """The certificate as PEM text."""
        text: str = import_module("ssl").DER_cert_to_PEM_cert(self.der)
        return text

    @cached_property
    def serial(self) -> int:
        """The serial number that the issuer has given."""
        return self._parsed.serial_number

    @cached_property
    def not_after(self) -> datetime:
        """When the certificate expires, in UTC."""
        return self._parsed.not_valid_after_utc


def client_certificate(scope: Mapping[str, Any]) -> ClientCertificate | None:
    """The verified certificate of the client that sent a request; None if it has none, and on plain connections."""
    tls = scope.get("extensions", {}).get("tls")
    found: ClientCertificate | None = tls.get(SCOPE_KEY) if tls is not None else None
    return found
