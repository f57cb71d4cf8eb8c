"""What a client's certificate says, in the terms of those who decide by it."""

from __future__ import annotations

import ssl

import trustme

from pywatt_host.net.client_certificates import SCOPE_KEY, ClientCertificate, client_certificate
from tests.auth.certificates_for_tests import certificate


def test_a_certificate_says_its_subject_and_its_names() -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert(
        "billing.example", "10.0.0.5", "ops@example.com", common_name="billing", organization_name="Example, Inc."
    )
    certificate = ClientCertificate(ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode()))
    assert "CN=billing" in certificate.subject
    assert "O=Example\\, Inc." in certificate.subject
    assert certificate.issuer.startswith("OU=Testing CA")
    assert certificate.names == ("DNS:billing.example", "IP:10.0.0.5", "email:ops@example.com")
    assert certificate.pem == leaf.cert_chain_pems[0].bytes().decode()
    assert certificate.serial > 0
    assert certificate.not_after.tzinfo is not None


def test_a_certificate_without_alternative_names_has_none() -> None:
    authority = trustme.CA().cert_pem.bytes().decode()
    assert ClientCertificate(ssl.PEM_cert_to_DER_cert(authority)).names == ()


def test_a_name_that_cannot_be_read_is_empty() -> None:
    """OpenSSL accepts such a certificate, and the handshake must not fail here."""
    der = certificate({"CN": "billing?"}, {"O": "Example"}).replace(b"billing?", b"billing\xff")
    assert ClientCertificate(der).subject == ""
    assert ClientCertificate(der).issuer == "CN=Test CA"


def test_a_scope_has_the_certificate_that_the_server_has_put_there() -> None:
    certificate = ClientCertificate(b"")
    assert client_certificate({"extensions": {"tls": {SCOPE_KEY: certificate}}}) is certificate
    assert client_certificate({"extensions": {"tls": {SCOPE_KEY: None}}}) is None
    assert client_certificate({"extensions": {}}) is None
    assert client_certificate({}) is None
