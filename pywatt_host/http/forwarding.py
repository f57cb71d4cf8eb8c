"""Forwarding headers: used where a trusted proxy sends them, removed where any other client does."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from typing import TypeAlias

from pywatt_host.types import Headers, Scope

logger = logging.getLogger("pywatt.edge")

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# Removed from requests of untrusted peers: each of these makes some framework or proxy change the request.
FORGEABLE = frozenset(
    (
        b"forwarded", b"x-real-ip", b"x-original-url", b"x-rewrite-url",
        b"x-http-method-override", b"x-http-method", b"x-method-override",
    )
)  # fmt: skip
# Proxies pass these on from clients, and they make the application see another path or method than the edge does.
_REWRITING = FORGEABLE - {b"forwarded", b"x-real-ip"}
_REMEMBERED_PEERS = 4096  # addresses whose trust is cached


def is_forgeable(name: bytes) -> bool:
    return name in FORGEABLE or name.startswith(b"x-forwarded-")


class Forwarding:
    """Applies the forwarding headers of trusted proxies.

    `trusted` has addresses, networks (RFC 4632) and `unix`; `*` (from FORWARDED_ALLOW_IPS) trusts every peer. Where
    endpoints are `guarded`, headers that replace the path or the method are removed for every peer.
    """

    def __init__(self, trusted: Iterable[str], *, guarded: bool = False) -> None:
        self._guarded = guarded
        entries = set(trusted)
        self._everyone = "*" in entries
        self._unix = "unix" in entries
        self._networks: tuple[Network, ...] = tuple(
            ipaddress.ip_network(entry, strict=False) for entry in sorted(entries - {"*", "unix"})
        )
        self._verdicts: dict[str, bool] = {}
        self._warned: set[str] = set()

    def _trusts_address(self, host: str) -> bool:
        verdict = self._verdicts.get(host)
        if verdict is None:
            verdict = self._everyone or self._in_a_network(host)
            if len(self._verdicts) >= _REMEMBERED_PEERS:
                self._verdicts.clear()
            self._verdicts[host] = verdict
        return verdict

    def _in_a_network(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any(candidate in network for network in self._networks for candidate in (address, mapped) if candidate)

    def apply(self, scope: Scope) -> None:
        """Use the forwarding headers of a request, or remove them. Called only where there is at least one."""
        client = scope.get("client")
        if self._unix or self._everyone if client is None else self._trusts_address(client[0]):
            self._use(scope)
        else:
            self._remove(scope, client)

    def _remove(self, scope: Scope, client: tuple[str, int] | None) -> None:
        headers: Headers = scope["headers"]
        peer = client[0] if client is not None else "unix"
        if peer not in self._warned and any(name == b"x-forwarded-proto" for name, _ in headers):
            if len(self._warned) >= _REMEMBERED_PEERS:
                self._warned.clear()
            self._warned.add(peer)
            logger.warning(
                "X-Forwarded-Proto from %s is ignored: it is not a trusted proxy (server.trusted_proxies)",
                peer,
                extra={"peer": peer, "key": "server.trusted_proxies"},
            )
        scope["headers"] = [header for header in headers if not is_forgeable(header[0])]

    def _use(self, scope: Scope) -> None:
        if self._guarded:
            scope["headers"] = [header for header in scope["headers"] if header[0] not in _REWRITING]
        forwarded: list[str] = []
        proto = ""
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                forwarded += [part.strip() for part in value.decode("latin-1").split(",")]
            elif name == b"x-forwarded-proto":
                proto = value.decode("latin-1").rpartition(",")[2].strip().lower()
        if proto in ("http", "https", "ws", "wss"):
            secure = proto in ("https", "wss")
            plain = "ws" if scope["type"] == "websocket" else "http"
            scope["scheme"] = plain + ("s" if secure else "")
        # The right-most address that is not a trusted proxy is the client; addresses to its left may be forged.
        for number, entry in enumerate(reversed(forwarded), 1):
            host = _host(entry)
            if host is None:
                return
            scope["client"] = (host, 0)
            if number == len(forwarded) or not self._trusts_address(host):
                return


def _host(entry: str) -> str | None:
    """The address in one X-Forwarded-For entry, which may have a port; None where it is not an address."""
    text = entry[1:].partition("]")[0] if entry.startswith("[") else entry
    if text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
