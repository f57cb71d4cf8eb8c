"""What a WSGI application learns of the TLS connection, in the words of mod_ssl."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from cryptography import x509

from pywatt_host.net.client_certificates import CIPHER_KEY, SCOPE_KEY, ClientCertificate
from tests.certificates import issued

SUITE = "TLS_AES_256_GCM_SHA384"


def extension(certificate: ClientCertificate | None) -> dict[str, Any]:
    return {"tls": {"tls_version": 0x0304, CIPHER_KEY: SUITE, SCOPE_KEY: certificate}}


def of_tls(environ: dict[str, Any]) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key.startswith("SSL_") or key == "HTTPS"}


def test_a_request_over_tls_without_a_client_certificate(environ_of: Any) -> None:
    environ = environ_of(scheme="https", extensions=extension(None))
    assert environ["wsgi.url_scheme"] == "https"
    assert of_tls(environ) == {
        "HTTPS": "on", "SSL_PROTOCOL": "TLSv1.3", "SSL_CIPHER": SUITE, "SSL_CLIENT_VERIFY": "NONE",
    }  # fmt: skip


def test_a_client_certificate(environ_of: Any) -> None:
    leaf = issued("billing.example", "clients", 4)
    pem = leaf.cert_chain_pems[0].bytes().decode()
    certificate = ClientCertificate(ssl.PEM_cert_to_DER_cert(pem))
    found = of_tls(environ_of(scheme="https", extensions=extension(certificate)))
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert found["SSL_CLIENT_CERT"] == pem
    assert "CN=billing.example 4" in found["SSL_CLIENT_S_DN"]
    assert "O=clients" in found["SSL_CLIENT_I_DN"]
    assert int(found["SSL_CLIENT_M_SERIAL"], 16) == certificate.serial
    end = x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    assert found["SSL_CLIENT_V_END"] == f"{end:%b} {end.day:2} {end:%H:%M:%S} {end.year} GMT"


@pytest.mark.parametrize("extensions", [{}, {"tls": {"tls_version": 0x0303}}])
def test_a_client_cannot_forge_them_with_headers(environ_of: Any, extensions: dict[str, Any]) -> None:
    headers = [
        ("ssl-client-verify", "SUCCESS"), ("ssl_client_verify", "SUCCESS"), ("ssl-client-s-dn", "CN=root"),
        ("https", "on"), ("x-forwarded-client-cert", "x"),
    ]  # fmt: skip
    environ = environ_of(headers=headers, extensions=extensions)
    assert environ.get("SSL_CLIENT_VERIFY", "NONE") == "NONE"
    assert "SSL_CLIENT_S_DN" not in environ
    assert environ["HTTP_SSL_CLIENT_VERIFY"] == "SUCCESS"


def test_a_plain_request_has_none_of_them(environ_of: Any) -> None:
    assert of_tls(environ_of()) == {}
