"""Client certificates for requests in tests, in place of those that a TLS handshake would verify."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from pywatt_host.net.client_certificates import SCOPE_KEY, ClientCertificate

_LIFETIME = timedelta(hours=1)
_TLS_1_3 = 0x0304


def client_certificate(subject: str, names: Sequence[str]) -> ClientCertificate:
    """A certificate with this subject (RFC 4514) and these alternative names, each with its kind: `DNS:`, `URI:`,
    `email:` or `IP:`. It is signed by itself and valid for one hour. Raises ValueError for a name of another form."""
    x509 = import_module("cryptography.x509")
    curves = import_module("cryptography.hazmat.primitives.asymmetric.ec")
    key = curves.generate_private_key(curves.SECP256R1())
    name = x509.Name.from_rfc4514_string(subject)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LIFETIME)
        .not_valid_after(now + _LIFETIME)
    )
    if names:
        alternatives = x509.SubjectAlternativeName([_alternative(x509, each) for each in names])
        builder = builder.add_extension(alternatives, critical=False)
    signed = builder.sign(key, import_module("cryptography.hazmat.primitives.hashes").SHA256())
    encoding = import_module("cryptography.hazmat.primitives.serialization").Encoding
    return ClientCertificate(signed.public_bytes(encoding.DER))


def _alternative(x509: Any, text: str) -> Any:
    kind, _, value = text.partition(":")
    match kind:
        case "DNS":
            return x509.DNSName(value)
        case "URI":
            return x509.UniformResourceIdentifier(value)
        case "email":
            return x509.RFC822Name(value)
        case "IP":
            return x509.IPAddress(ipaddress.ip_address(value))
    raise ValueError(f"{text!r} is not an alternative name: write DNS:, URI:, email: or IP: and the name")


def tls_extension(certificate: ClientCertificate) -> dict[str, Any]:
    """What the scope of a request says about its connection (the ASGI extension `tls`), as the host's server does."""
    return {
        "server_cert": None,
        "client_cert_chain": (certificate.pem,),
        "client_cert_name": certificate.subject,
        "client_cert_error": None,
        "tls_version": _TLS_1_3,
        "cipher_suite": None,
        SCOPE_KEY: certificate,
    }
