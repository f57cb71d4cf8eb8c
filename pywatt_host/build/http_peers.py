"""The HTTP listeners of other modules, from `services.static`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pywatt_host.manifest.model import Manifest, StaticService
from pywatt_host.messaging.http_client import HttpPeer, rendered
from pywatt_host.net.tls import client_context
from pywatt_host.peers.static import STREAM_SCHEMES, SecretValues, static_modules

if TYPE_CHECKING:
    from ssl import SSLContext


def http_peers(manifest: Manifest, secret_values: SecretValues) -> list[HttpPeer]:
    """The modules of `services.static` with an HTTP address. Raises ChannelError for TLS files that cannot be used."""
    found = []
    for service in static_modules(manifest):
        if not service.address.startswith(STREAM_SCHEMES):
            found.append(_http_peer(manifest, service, secret_values))
    return found


def _http_peer(manifest: Manifest, service: StaticService, secret_values: SecretValues) -> HttpPeer:
    http = manifest.channels.http
    path = http.path if http is not None else "/_pywatt/messages"
    address = service.address.rstrip("/")
    url = address if address.startswith(("http://", "https://")) else f"http://{address}"
    tls: SSLContext | None = None
    if url.startswith("https://"):
        tls = client_context(service.tls, manifest.resolve, "http", f"services.static {service.name}: tls")
    token: Any = service.token or (http.token if http is not None else None)
    return HttpPeer(
        service.name, url + path, manifest.module_id, lambda: rendered(token, secret_values()),
        manifest.channels.limits.frame, tls,
    )  # fmt: skip
