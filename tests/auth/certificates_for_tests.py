"""Certificates with any names, as an authority might have signed them. What is verified in a handshake is not needed
where only their names are looked at: they are signed by themselves."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

_KEY = generate_private_key(SECP256R1())
ATTRIBUTES = {
    "CN": NameOID.COMMON_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "L": NameOID.LOCALITY_NAME,
    "UID": NameOID.USER_ID,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "bits": NameOID.X500_UNIQUE_IDENTIFIER,
}


def certificate(
    *subject: dict[str, str | bytes],
    sans: Sequence[x509.GeneralName] = (),
    until: datetime.datetime | None = None,
) -> bytes:
    """A certificate in DER. `subject` has the parts of the subject, the most specific first; a part with several
    attributes has several values."""
    parts = [
        x509.RelativeDistinguishedName(
            x509.NameAttribute(
                ATTRIBUTES[name],
                value,
                *((x509.name._ASN1Type.BitString,) if isinstance(value, bytes) else ()),
                _validate=False,
            )
            for name, value in part.items()
        )
        for part in reversed(subject)
    ]
    name = x509.Name(parts)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test CA")]))
        .public_key(_KEY.public_key())
        .serial_number(0xABCDEF)
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(until or now + datetime.timedelta(days=30))
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(_KEY, SHA256()).public_bytes(Encoding.DER)
