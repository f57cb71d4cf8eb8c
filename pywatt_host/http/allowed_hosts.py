"""Which hosts a server answers to, and which origins may open WebSockets.

A web page can let its own name resolve to an address of the visitor's machine or network, and then read what is served
there (DNS rebinding). The Host of such requests is the name of the page: a server that knows its own names refuses it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from pywatt_host.http.exchange import Refusal
from pywatt_host.types import Headers, Scope

LOCAL_HOSTS = "PYWATT_LOCAL_HOSTS"  # by this variable, `dev` and `up` name further hosts to a child, with commas
KEY = "server.allowed_hosts"
ORIGIN_REFUSED = "the Origin of a WebSocket (server.cors.allow_origins)"

_REMEMBERED = 4096  # fields that are remembered
_LONGEST_REMEMBERED = 256  # bytes of such a value
_LOOPBACK_NAMES = ("localhost", "*.localhost")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@/?#\\\s]+)(?::[0-9]*)?").fullmatch
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^/?#@\\\s]+)", re.IGNORECASE).fullmatch


def host_name(value: str) -> str:
    """The name or address in a Host, without its port, in the form in which hosts are compared: lower case, without a
    final dot, an IPv6 address in its shortest form and without brackets. Empty where the value is not a host."""
    match = _HOST(value)
    if match is None:
        return ""
    name = match[1].lower()
    if name.startswith("["):
        try:
            address = ipaddress.IPv6Address(name[1:-1])
        except ValueError:
            return ""
        return str(address.ipv4_mapped or address)
    return name.removesuffix(".")


def named_in(listening: Iterable[str]) -> list[str]:
    """The names and addresses among hosts to listen on, as patterns. Every interface has none."""
    found = []
    for host in listening:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host:
                found.append(host)
        else:
            if not address.is_unspecified:
                found.append(f"[{host}]" if address.version == 6 else host)
    return found


class AllowedHosts:
    """The hosts that a server answers to.

    `patterns` are names, `*.name` for all names below one, addresses, and `*` for any host. With `loopback`, the names
    and addresses of this machine alone are allowed as well: `localhost`, names below it, 127.0.0.0/8 and ::1.
    """

    def __init__(self, patterns: Iterable[str], *, loopback: bool = False) -> None:
        patterns = {pattern.lower().removesuffix(".") for pattern in patterns}
        self.any = "*" in patterns
        patterns |= set(_LOOPBACK_NAMES) if loopback else set()
        self._loopback = loopback
        self._names = frozenset(host_name(pattern) for pattern in patterns if not pattern.startswith("*"))
        self._endings = tuple(pattern[1:] for pattern in patterns if pattern.startswith("*."))

    def host_allowed(self, host: str) -> bool:
        """Whether a Host, with or without a port, is one of those."""
        if self.any:
            return True
        name = host_name(host)
        if not name:
            return False
        return name in self._names or name.endswith(self._endings) or (self._loopback and _is_loopback(name))

    def all_allowed(self, headers: Headers) -> bool:
        """Whether there is a Host, and each Host and each X-Forwarded-Host is allowed. The second is there only from a
        trusted proxy, and may be a list."""
        if self.any:
            return True
        found = False
        for name, value in headers:
            if name == b"host":
                found = True
                if not self.host_allowed(value.decode("latin-1")):
                    return False
            elif name == b"x-forwarded-host" and not all(map(self.host_allowed, _elements(value))):
                return False
        return found

    def no_foreign_name(self, headers: Headers) -> bool:
        """Whether the request cannot come from a page of another site: each Host is allowed, or is an address or a
        loopback name, or there is none. Such a page needs a name of its own."""
        for name, value in headers:
            if name in (b"host", b"x-forwarded-host"):
                for each in _elements(value):
                    host = host_name(each)
                    if not (self.host_allowed(each) or _is_address(host) or _is_loopback(host)):
                        return False
        return True


def _elements(value: bytes) -> list[str]:
    return [each.strip() for each in value.decode("latin-1").split(",")]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class HostCheck:
    """Refuses requests for hosts that are not allowed.

    `probes` are paths on which any host is allowed: probes send the address of a container, or the name of a check.
    `addresses` are paths on which hosts are allowed that no page of another site can have, as metrics collectors send
    them. `key` is the reason of refusals.
    """

    def __init__(
        self, hosts: AllowedHosts, probes: Collection[str] = (), addresses: Collection[str] = (), key: str = KEY
    ) -> None:
        self._hosts = hosts
        self._probes, self._addresses = frozenset(probes), frozenset(addresses)
        self._refusal = Refusal(421, key)
        self.known: set[tuple[bytes, bytes]] = set()  # Host fields that are allowed, as they were sent

    def refusal(self, scope: Scope, path: str) -> Refusal | None:
        """The refusal of a request; None where its host is allowed. Forwarding headers of clients that are no trusted
        proxies have to be removed before."""
        headers = scope["headers"]
        if self._hosts.all_allowed(headers):
            self._remember(headers)
            return None
        if path in self._probes or (path in self._addresses and self._hosts.no_foreign_name(headers)):
            return None
        return self._refusal

    def _remember(self, headers: Headers) -> None:
        field = headers[0] if headers else (b"", b"")
        if field[0] == b"host" and len(field[1]) <= _LONGEST_REMEMBERED:
            if len(self.known) >= _REMEMBERED:
                self.known.clear()
            self.known.add(field)


class AllowedOrigins:
    """The origins whose pages may open WebSockets. Browsers send the cookies of this site with a handshake, whichever
    site the page is from, and do not apply CORS to it.

    An origin is allowed if its host is one of `hosts`, if it is one of `origins` (`*`: any), or if `pattern` matches it
    as a whole.
    """

    def __init__(self, hosts: AllowedHosts, origins: Iterable[str] = (), pattern: str | None = None) -> None:
        self._hosts = hosts
        self._origins = frozenset(origin.lower() for origin in origins)
        try:
            self._pattern = re.compile(pattern) if pattern is not None else None
        except re.error:
            self._pattern = None

    def allow(self, headers: Headers) -> bool:
        """Whether a handshake may go on. One without Origin does not come from a browser."""
        return all(self._allows(value.decode("latin-1")) for name, value in headers if name == b"origin")

    def _allows(self, origin: str) -> bool:
        if self._hosts.any or "*" in self._origins or origin.lower() in self._origins:
            return True
        if self._pattern is not None and self._pattern.fullmatch(origin) is not None:
            return True
        match = _ORIGIN(origin)
        return match is not None and self._hosts.host_allowed(match[1])
