"""A TLS handshake in this process, with a client that trusts the certificate: what a listener would show to clients."""

from __future__ import annotations

import ssl
from dataclasses import replace

from pywatt_host.exceptions import TlsError
from pywatt_host.net.client_certificates import ClientCertificate
from pywatt_host.net.tls_material import TlsMaterial, shown_time

_ROUNDS = 10  # of messages; a handshake takes three


def handshake(material: TlsMaterial, key: str, file: str) -> str:
    """Make a handshake with the context that a listener would have. Returns a text about the certificate: its subject,
    its other names, until when it is valid, and the version of TLS. Raises TlsError (`handshake`) for the manifest key
    of the section and the file of the certificate.

    The client trusts the certificate itself: whether other clients do depends on their CA certificates. It has no
    certificate, so it is not asked for one.
    """
    server_context = replace(material, demands="none", client_ca=None).context()
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client_context.load_verify_locations(cadata=material.chain.decode("ascii", "replace"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    try:
        waiting = [client, server]
        for _ in range(_ROUNDS):
            waiting = [side for side in waiting if not _complete(side)]
            if not waiting:
                break
    except ssl.SSLError as error:
        why = getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()
        raise TlsError(f"{key}.cert", file, "handshake", f"clients refuse it: {why}") from error
    der = client.getpeercert(True)
    assert der is not None, "the handshake is complete"
    shown = ClientCertificate(der)
    names = ", ".join(shown.names) or "no alternative names"
    return f"{shown.subject or '(no subject)'}; {names}; valid until {shown_time(shown.not_after)}; {client.version()}"


def _complete(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
