"""A certificate for the servers that speak TLS, made for one run, and clients that take any."""

from __future__ import annotations

import datetime
import ssl
from importlib import import_module
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any


def write(folder: Path) -> tuple[Path, Path]:
    """The files of a self-signed certificate and its key, written unless they are there."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not certificate.exists():
        x509: Any = import_module("cryptography.x509")
        ec: Any = import_module("cryptography.hazmat.primitives.asymmetric.ec")
        hashes: Any = import_module("cryptography.hazmat.primitives.hashes")
        serialization: Any = import_module("cryptography.hazmat.primitives.serialization")
        private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "benchmarks")])
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=private.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(days=1),
            not_valid_after=now + datetime.timedelta(days=30),
        )
        names = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
        signed = builder.add_extension(names, critical=False).sign(private, hashes.SHA256())
        pem = serialization.Encoding.PEM
        form = serialization.PrivateFormat.PKCS8
        key.write_bytes(private.private_bytes(pem, form, serialization.NoEncryption()))
        certificate.write_bytes(signed.public_bytes(pem))
    return certificate, key


def any_certificate() -> ssl.SSLContext:
    """A context for the load, which verifies nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
