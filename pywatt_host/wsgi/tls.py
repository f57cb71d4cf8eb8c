"""What the environ says about the TLS connection of a request, in the words of Apache's mod_ssl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pywatt_host.net.client_certificates import CIPHER_KEY, ClientCertificate

_PROTOCOLS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}


def tls_variables(tls: Mapping[str, Any], certificate: ClientCertificate | None) -> dict[str, str]:
    """The variables for a request, whose scope has this TLS extension. `certificate` is that of the client, verified.

    A client cannot set any of them: variables of headers begin with HTTP_.
    """
    found = {"HTTPS": "on", "SSL_PROTOCOL": _PROTOCOLS.get(tls.get("tls_version") or 0, "")}
    cipher = tls.get(CIPHER_KEY)
    if cipher:
        found["SSL_CIPHER"] = cipher
    if certificate is None:
        found["SSL_CLIENT_VERIFY"] = "NONE"
        return found
    return found | {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": certificate.subject,
        "SSL_CLIENT_I_DN": certificate.issuer,
        "SSL_CLIENT_M_SERIAL": f"{certificate.serial:X}",
        "SSL_CLIENT_V_END": certificate.not_after.strftime("%b %e %H:%M:%S %Y GMT"),
        "SSL_CLIENT_CERT": certificate.pem,
    }
