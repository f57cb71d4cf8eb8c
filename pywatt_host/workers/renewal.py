"""Certificates on their way to workers: the supervisor reads and verifies them, and its workers use them."""

from __future__ import annotations

from typing import Any

from pywatt_host.net.tls_material import TlsMaterial
from pywatt_host.protocol.messages import WorkerTls


def message_of(section: str, material: TlsMaterial) -> WorkerTls:
    """What a worker is told of the certificate of a TLS section."""
    return WorkerTls(
        section,
        material.chain.decode("latin-1"),
        material.key.decode("latin-1"),
        None if material.client_ca is None else material.client_ca.decode("latin-1"),
        material.demands,
        material.min_version,
    )


def material_of(message: WorkerTls) -> TlsMaterial:
    """The certificate in a message of the supervisor, which has verified it."""
    demands: Any = message.demands
    min_version: Any = message.min_version
    return TlsMaterial(
        message.chain.encode("latin-1"),
        message.private_key.encode("latin-1"),
        None if message.client_ca is None else message.client_ca.encode("latin-1"),
        demands,
        min_version,
    )
