"""The services of `services.static`: whether each takes connections, and the addresses of services."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from pywatt_host.manifest.model import StaticService
from pywatt_host.manifest.model.services import MODULE
from pywatt_host.protocol.messages import Provider, service_type_of

_PROBE_TIMEOUT = 1.0  # seconds for a static service to take a connection
_CACHE_TTL = 2.0  # seconds for which the result of a probe counts
_DEFAULT_PORTS = {
    "http": 80, "https": 443, "ws": 80, "wss": 443, "postgresql": 5432, "postgres": 5432, "mysql": 3306,
    "mariadb": 3306, "redis": 6379, "rediss": 6379, "nats": 4222, "amqp": 5672, "mqtt": 1883, "memcached": 11211,
}  # fmt: skip


class StaticProvider:
    """A service of `services.static`. It is healthy while it takes connections."""

    def __init__(self, service: StaticService) -> None:
        self.service = service
        self.kind = service_type_of(service.type)
        self._healthy = False
        self._probed_until = 0.0
        self._probing = asyncio.Lock()

    @property
    def is_channel(self) -> bool:
        """Whether it is a channel that takes frames, and not HTTP."""
        return self.kind == MODULE and self.service.address.startswith(("unix:", "tcp://"))

    def last_known(self) -> Provider:
        """The provider, with its health as of the last probe."""
        service = self.service
        module = service.name if self.kind == MODULE else ""
        return Provider(
            f"static/{self.kind}/{service.name}/{service.address}", module, self.kind, service.name, None,
            service.address, dict(service.metadata), self._healthy,
        )  # fmt: skip

    async def provider(self) -> Provider:
        """The provider with its present health: it is probed at most once in `_CACHE_TTL` seconds."""
        async with self._probing:
            if time.monotonic() >= self._probed_until:
                self._healthy = await takes_connections(self.service.address)
                self._probed_until = time.monotonic() + _CACHE_TTL
        return self.last_known()


async def takes_connections(address: str) -> bool:
    """Whether a connection to the address succeeds within a second."""
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT):
            if address.startswith("unix:"):
                _, writer = await asyncio.open_unix_connection(address[5:])
            else:
                host, port = _host_and_port(address)
                _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    """The host and port of an address. Raises ValueError where it has none."""
    url = urlsplit(address if "://" in address else f"//{address}")
    port = url.port or _DEFAULT_PORTS.get(url.scheme.partition("+")[0])
    if not url.hostname or port is None:
        raise ValueError(address)
    return url.hostname, port


def http_address(address: str) -> str | None:
    """An address in the form that HTTP clients take; None for one of another protocol.

    >>> http_address("unix:/run/users.sock"), http_address("10.0.0.5:8080"), http_address("tcp://10.0.0.5:9000")
    ('http+unix:/run/users.sock', 'http://10.0.0.5:8080', None)
    """
    if address.startswith("unix:"):
        return f"http+unix:{address[5:]}"
    if address.startswith("/"):
        return f"http+unix:{address}"
    if address.startswith(("http://", "https://")):
        url = urlsplit(address)
        return f"{url.scheme}://{url.netloc}"
    return f"http://{address}" if "://" not in address and ":" in address else None


def own_address(towards: Sequence[tuple[str, int]]) -> str:
    """The address of this machine on the way to one of these hosts. Nothing is sent."""
    for host, port in (
        *towards,
        ("192.0.2.1", 9),
    ):  # the last is for documentation (RFC 5737), so that it takes the default route
        try:
            for family, kind, proto, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM):
                with socket.socket(family, kind, proto) as probe:
                    probe.connect(address)
                    return str(probe.getsockname()[0])
        except OSError:
            continue
    return "127.0.0.1"
