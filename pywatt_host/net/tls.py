"""TLS contexts for channels, made from files. Errors name the manifest key."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pywatt_host.exceptions import ChannelError
from pywatt_host.manifest.model.channels import ChannelTls, ClientTls

if TYPE_CHECKING:
    from ssl import SSLContext


def server_context(tls: ChannelTls, resolve: Callable[[str], Path]) -> SSLContext:
    """Return the context for a listener, with its certificate (TLS 1.2 or newer). With `client_ca`, clients need a
    certificate of that authority. Raises ChannelError, which names the key."""
    ssl = import_module("ssl")
    context: SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _own_certificate(context, tls, resolve, "tcp", "channels.tcp.tls")
    if tls.client_ca is not None:
        _trust(context, resolve(tls.client_ca), "tcp", "channels.tcp.tls.client_ca")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(
    tls: ClientTls | None, resolve: Callable[[str], Path], channel: str = "tcp", key: str = "channels.tcp.tls"
) -> SSLContext:
    """Return the context for a client. The server's certificate and its name are always verified. Raises ChannelError,
    which names the key."""
    ssl = import_module("ssl")
    context: SSLContext = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls is not None and tls.ca is not None:
        _trust(context, resolve(tls.ca), channel, f"{key}.ca")
    else:
        context.load_default_certs()
    if tls is not None:
        _own_certificate(context, tls, resolve, channel, key)
    return context


def _own_certificate(
    context: SSLContext, tls: ClientTls, resolve: Callable[[str], Path], channel: str, key: str
) -> None:
    if tls.cert is None or tls.key is None:
        return
    try:
        context.load_cert_chain(resolve(tls.cert), resolve(tls.key), password=lambda: "")
    except OSError as error:  # SSLError is one
        reason = error.strerror or str(error)
        raise ChannelError(channel, "", f"{key}.cert and key cannot be used: {reason}") from error


def _trust(context: SSLContext, path: Path, channel: str, key: str) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ChannelError(channel, "", f"{key} cannot be used: {error.strerror or error}") from error
