"""A manifest in a container: every listener has a port that others can reach, and nothing is written to disk."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pywatt_host.export.facts import Facts
from pywatt_host.manifest.values import Address, TcpAddress
from pywatt_host.manifest.values.addresses import is_loopback

_EVERYWHERE = ("", "0.0.0.0")
_PRIVILEGED_PORTS_END = 1024  # ports below need a privilege
SCRATCH = "/tmp"  # the only folder that can be written to


@dataclass(frozen=True, slots=True)
class Probed:
    """The port of the probes, and the scheme as Kubernetes writes it."""

    port: int
    scheme: str


@dataclass(frozen=True, slots=True)
class Container:
    """The ports of one container. `admin` is None if the first port of `http` answers the health checks; `channel` is
    the port of `channels.tcp`. `local`: the manifest listens on local addresses only. `variables` are the environment
    variables that set these ports."""

    http: tuple[int, ...]
    admin: int | None
    channel: int | None
    local: bool
    tls: bool
    variables: dict[str, str]

    @property
    def probed(self) -> Probed:
        """Where the probes connect. The admin listener uses plain HTTP."""
        if self.admin is not None:
            return Probed(self.admin, "HTTP")
        return Probed(self.http[0], "HTTPS" if self.tls else "HTTP")


def container(facts: Facts, *, balanced: bool, nats: str | None) -> Container:
    """The container for a manifest. `balanced`: a load balancer chooses between containers."""
    server = facts.manifest.server
    variables = facts.settings(balanced=balanced, nats=nats)
    # The image may set another profile; these files are made for this one.
    variables = {"PYWATT_PROFILE": facts.profile, **variables}
    http = _reached(server.listen, ())
    if http is None:
        http = (_free(server.listen, 8080, ()),)
        variables["PYWATT__SERVER__LISTEN"] = f":{http[0]}"
    admin: int | None = None
    if server.admin is not None:
        kept = _reached(server.admin.listen, http)
        admin = kept[0] if kept else _free(server.admin.listen, 9090, http)
        if not kept:
            variables["PYWATT__SERVER__ADMIN__LISTEN"] = f":{admin}"
    if server.control != "off":
        # So that `pywatt-host ps` works inside the container.
        variables["XDG_RUNTIME_DIR"] = SCRATCH
        if server.control != "auto":
            variables["PYWATT__SERVER__CONTROL"] = "auto"
    tcp = facts.manifest.channels.tcp
    listened = tcp.listen if tcp is not None else None
    channel = listened.port if listened is not None and not is_loopback(listened.host) and listened.port else None
    local = all(not isinstance(each, TcpAddress) or is_loopback(each.host) for each in server.listen)
    return Container(http, admin, channel, local, getattr(server, "tls", None) is not None, variables)


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


def _free(addresses: Sequence[Address], usual: int, taken: Collection[int]) -> int:
    """The first port of the manifest that a container may use, else the usual port, or the next free one after it."""
    named = [each.port for each in addresses if isinstance(each, TcpAddress) and each.port >= _PRIVILEGED_PORTS_END]
    port = next((port for port in (*named, usual) if port not in taken), usual)
    while port in taken:
        port += 1
    return port
