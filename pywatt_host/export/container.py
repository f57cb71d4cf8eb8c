"""A manifest in a container: every listener has a port that others can reach, and nothing is written to disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pywatt_host.export.facts import Facts
from pywatt_host.export.tls_files import Placed, TlsFiles, listed, tls_files
from pywatt_host.manifest.model.server import Server
from pywatt_host.manifest.model.tls import ServerTls
from pywatt_host.manifest.values import Address, TcpAddress
from pywatt_host.manifest.values.addresses import is_loopback

_EVERYWHERE = ("", "0.0.0.0")
_PRIVILEGED_PORTS_END = 1024  # ports below need a privilege
_CERTIFICATES = "/run/certificates"  # has a folder for each set of certificate files
SCRATCH = "/tmp"  # the only folder that can be written to


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a container, with the TLS settings of its listener; None for plain HTTP."""

    number: int
    tls: ServerTls | None = None

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    @property
    def answers_probes(self) -> bool:
        """Whether a probe can send requests: it has no client certificate."""
        return self.tls is None or self.tls.demands != "required"


@dataclass(frozen=True, slots=True)
class Container:
    """The ports of one container. `admin` is None if a port of `http` answers the health checks; `redirect` answers
    plain HTTP with a redirect; `channel` is the port of `channels.tcp`. `local`: the manifest listens on local
    addresses only. `variables` are the environment variables that set these ports and the places of `certificates`."""

    http: tuple[Port, ...]
    admin: Port | None
    redirect: int | None
    channel: int | None
    local: bool
    variables: dict[str, str]
    certificates: tuple[TlsFiles, ...]

    @property
    def probed(self) -> Port:
        """Where the probes connect: where they can send requests, if there is such a port."""
        if self.admin is not None:
            return self.admin
        return next((port for port in self.http if port.answers_probes), self.http[0])


def container(facts: Facts, *, balanced: bool, nats: str | None) -> Container:
    """The container for a manifest. `balanced`: a load balancer chooses between containers."""
    server = facts.manifest.server
    variables = facts.settings(balanced=balanced, nats=nats)
    # The image may set another profile; these files are made for this one.
    variables = {"PYWATT_PROFILE": facts.profile, **variables}
    placed = Placed(facts.manifest, lambda files, name: f"{folder_of(files)}/{name}")
    http = _listeners(facts, placed, variables)
    taken = {port.number for port in http}
    admin: Port | None = None
    if server.admin is not None:
        kept = _reached(server.admin.listen, taken)
        number = kept[0] if kept else _free(server.admin.listen, 9090, taken)
        if not kept:
            variables["PYWATT__SERVER__ADMIN__LISTEN"] = f":{number}"
        admin = Port(number, server.admin.tls)
        taken.add(number)
    redirect: int | None = None
    if server.tls is not None and server.tls.redirect is not None:
        kept = _reached([server.tls.redirect], taken)
        redirect = kept[0] if kept else _free([server.tls.redirect], 8080, taken)
        if not kept:
            variables["PYWATT__SERVER__TLS__REDIRECT"] = f":{redirect}"
    variables |= placed.variables()
    if server.control != "off":
        # So that `pywatt-host ps` works inside the container.
        variables["XDG_RUNTIME_DIR"] = SCRATCH
        if server.control != "auto":
            variables["PYWATT__SERVER__CONTROL"] = "auto"
    tcp = facts.manifest.channels.tcp
    listened = tcp.listen if tcp is not None else None
    channel = listened.port if listened is not None and not is_loopback(listened.host) and listened.port else None
    local = all(not isinstance(each, TcpAddress) or is_loopback(each.host) for each in server.listen)
    return Container(http, admin, redirect, channel, local, variables, tls_files(facts.manifest))


def folder_of(files: TlsFiles) -> str:
    """Where the container has these files."""
    return f"{_CERTIFICATES}/{files.name}"


def health_command(facts: Facts, inside: Container) -> list[str]:
    """The command that checks whether the host is ready. It runs Python, which every image with the host has."""
    health, probed = facts.manifest.health, inside.probed
    if health.enabled and probed.answers_probes:
        url = f"{probed.scheme}://127.0.0.1:{probed.number}{health.readiness}"
        code = f"from urllib.request import urlopen; urlopen({url!r}, timeout=2)"
        if probed.tls is not None:  # the certificate is not for 127.0.0.1
            code = f"import ssl; {code[:-1]}, context=ssl._create_unverified_context())"
    else:
        code = f"import socket; socket.create_connection(('127.0.0.1', {probed.number}), 2)"
    return ["python", "-c", code]


def _listeners(facts: Facts, placed: Placed, variables: dict[str, str]) -> tuple[Port, ...]:
    """The ports of `server.listen`: those of the manifest if all of them can be reached, else one for its first
    listener with TLS, or its first one."""
    server = facts.manifest.server
    numbers = range(len(server.listen))
    kept = _reached(server.listen, ())
    if kept is not None:
        if placed.listeners_have_files:
            variables["PYWATT__SERVER__LISTEN"] = listed(placed.listener(each, server.listen[each]) for each in numbers)
        ports = {_port(server.listen[number]): _tls(server, number) for number in reversed(numbers)}
        return tuple(Port(port, ports[port]) for port in kept)
    number = next((number for number in numbers if server.tls_of(number) is not None), 0)
    tls = server.tls_of(number)
    addresses = [server.listen[number]] if tls is not None else server.listen
    port = _free(addresses, 8080 if tls is None else 8443, ())
    variables["PYWATT__SERVER__LISTEN"] = listed([placed.listener(number, TcpAddress("", port))])
    own = server.own_tls(number)
    return (Port(port, None if own == "off" else own or server.tls),)  # a Unix socket has become a TCP port


def _tls(server: Server, number: int) -> ServerTls | None:
    declared = server.tls_of(number)
    return declared.tls if declared is not None else None


def _port(address: Address) -> int:
    return address.port if isinstance(address, TcpAddress) else 0


def _reached(addresses: Sequence[Address], taken: Collection[int]) -> tuple[int, ...] | None:
    """The ports of the addresses, if other machines can reach all of them unchanged; else None."""
    ports: list[int] = []
    for address in addresses:
        if not isinstance(address, TcpAddress) or address.host not in _EVERYWHERE:
            return None
        if address.port < _PRIVILEGED_PORTS_END or address.port in taken:
            return None
        ports.append(address.port)
    return tuple(dict.fromkeys(ports))


def stays(address: Address, ports: Collection[int]) -> bool:
    """Whether an address is the same in a container that listens on these ports."""
    return isinstance(address, TcpAddress) and address.host in _EVERYWHERE and address.port in ports


def _free(addresses: Sequence[Address], usual: int, taken: Collection[int]) -> int:
    """The first port of the manifest that a container may use, else the usual port, or the next free one after it."""
    named = [each.port for each in addresses if isinstance(each, TcpAddress) and each.port >= _PRIVILEGED_PORTS_END]
    port = next((port for port in (*named, usual) if port not in taken), usual)
    while port in taken:
        port += 1
    return port
