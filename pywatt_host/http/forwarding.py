"""Forwarding headers: used where a trusted proxy sends them, removed where any other client does."""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable
from typing import TypeAlias

from pywatt_host.types import Headers, Scope

logger = logging.getLogger("pywatt.edge")

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
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
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4 addresses on sockets that take both (RFC 4291, section 2.5.5.2)
_ZONE = re.compile(r"[A-Za-z0-9._~-]{1,32}\Z")  # of a link-local address: the name or the number of an interface
GATEWAY = "PYWATT_GATEWAY"  # by this variable, `up` tells its modules the peers that are its gateway
_NODE = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<ipv4>[0-9.]+))(?::[0-9]{1,5})?\Z")  # an address that may have a port


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
        self._networks: tuple[Network, ...] = tuple(_networks(sorted(entries - {"*", "unix"})))
        self._verdicts: dict[str, bool] = {}
        self._warned: set[str] = set()

    def trusts(self, host: str) -> bool:
        """Whether an address is that of a trusted proxy."""
        verdict = self._verdicts.get(host)
        if verdict is None:
            verdict = self._everyone or self._in_a_network(host)
            if len(self._verdicts) >= _REMEMBERED_PEERS:
                self._verdicts.clear()
            self._verdicts[host] = verdict
        return verdict

    def _in_a_network(self, host: str) -> bool:
        address = _address(host)
        return address is not None and any(_contains(network, address) for network in self._networks)

    def apply(self, scope: Scope) -> None:
        """Use the forwarding headers of a request, or remove them. Called only where there is at least one."""
        client = scope.get("client")
        if self._unix or self._everyone if client is None else self.trusts(client[0]):
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
                forwarded += _elements(value)
            elif name == b"x-forwarded-proto":
                proto = "".join(_elements(value)[-1:]).lower() or proto
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
            if number == len(forwarded) or not self.trusts(host):
                return


def _elements(value: bytes) -> list[str]:
    """The elements of a list in a header; empty ones do not count (RFC 9110, section 5.6.1.2)."""
    return [element for part in value.decode("latin-1").split(",") if (element := part.strip(" \t"))]


def _host(entry: str) -> str | None:
    """The address in one X-Forwarded-For entry, which may be in quotes and have a port; None where it is not an
    address, such as `unknown`."""
    if len(entry) > 1 and entry[0] == entry[-1] == '"':
        entry = entry[1:-1]
    node = _NODE.match(entry)
    address = _address((node["ipv6"] or node["ipv4"]) if node is not None else entry)
    return None if address is None else str(address)


def _address(text: str) -> Address | None:
    """Read an address. An IPv4 address that is written as an IPv6 address becomes the IPv4 address. Returns None for a
    text that is no address, and for an address whose zone is not the name of an interface, since a zone may contain any
    character."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None and _ZONE.match(address.scope_id) is None:
            return None
        return address.ipv4_mapped or address
    return address


def _networks(entries: Iterable[str]) -> Iterable[Network]:
    for entry in entries:
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:  # from the environment: those of the manifest are checked
            logger.warning("%r in FORWARDED_ALLOW_IPS is not an address, a network, unix or *: it is ignored", entry)
            continue
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            first = int(network.network_address) - int(_MAPPED.network_address)
            network = ipaddress.IPv4Network((first, network.prefixlen - _MAPPED.prefixlen))
        yield network


def _contains(network: Network, address: Address) -> bool:
    """A network with a zone has the addresses of that zone only, one without has those of all zones."""
    if address not in network:
        return False
    zone = getattr(network.network_address, "scope_id", None)
    return zone is None or zone == getattr(address, "scope_id", None)
