"""Addresses to listen on and to connect to."""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from pywatt_host.manifest.values.scalars import Format, fault, text_of


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host (a name, an IPv4 or IPv6 address, or empty for every interface) and a port (0 for any free port)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket: its path, relative to the manifest's folder, its permission bits and its group."""

    path: str
    mode: int = 0o600
    group: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class FdAddress:
    """A listening socket that the parent process passed down, under this file descriptor."""

    fd: int

    def __str__(self) -> str:
        return f"fd:{self.fd}"


@dataclass(frozen=True, slots=True)
class SystemdAddress:
    """Every listening socket that systemd passed to the process (sd_listen_fds(3))."""

    def __str__(self) -> str:
        return "systemd"


Address: TypeAlias = TcpAddress | UnixAddress | FdAddress | SystemdAddress

# The longest path of a Unix socket, in bytes, without the NUL at its end: sun_path has 108 on Linux and 104 on macOS.
MAX_UNIX_PATH = 107 if sys.platform == "linux" else 103

LISTEN_PATTERN = r"^(systemd|fd:[0-9]{1,6}|unix:.+|(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]*):[0-9]{1,5})$"
TCP_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([A-Za-z0-9._-]*)):([0-9]{1,5})\Z")
MODE_PATTERN = r"^0?[0-7]{3}$"
_MODE = re.compile(r"0?[0-7]{3}\Z")
_LISTEN_FORMS = "host:port, [::1]:port, :port, unix:PATH, fd:N or systemd"


def parse_address(value: Any) -> Address:
    """Parse one entry of `listen`. Raises PydanticCustomError if the value is not an address."""
    if isinstance(value, TcpAddress | UnixAddress | FdAddress | SystemdAddress):
        return value
    if isinstance(value, dict):
        return _parse_unix(value)
    if isinstance(value, int) and not isinstance(value, bool):
        raise fault("address", '{port} is a port without a colon; perhaps ":{port}"', port=value)
    text = text_of(value, "an address", _LISTEN_FORMS)
    if text == "systemd":
        return SystemdAddress()
    if text.startswith("fd:") and text[3:].isascii() and text[3:].isdigit() and len(text) <= 9:
        return FdAddress(int(text[3:]))
    if text.startswith("unix:") and len(text) > 5 and "\0" not in text and "\n" not in text:
        return UnixAddress(text[5:])
    match = TCP_ADDRESS.match(text)
    if match is None or text.startswith(("unix:", "fd:")):
        raise fault("address", '"{text}" is not an address{hint}', text=text[:80], hint=_address_hint(text))
    host, port = match[1] or match[2], int(match[3])
    if port > 65535:
        raise fault("address", "{port} is not a port (write 0 to 65535)", port=port)
    if match[1] is not None:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise fault("address", '"{host}" is not an IPv6 address', host=host[:60]) from None
    return TcpAddress(host, port)


def _address_hint(text: str, usual: int = 8080, forms: str = _LISTEN_FORMS) -> str:
    if text.startswith(("/", "./")) and forms == _LISTEN_FORMS:
        return f'; perhaps "unix:{text}"'
    scheme, separator, rest = text.partition("://")
    host = (rest if separator else text).rstrip("/")
    port = {"https": 443}.get(scheme, 80) if separator else usual
    meant = host if TCP_ADDRESS.match(host) else f":{host}" if host.isdecimal() else f"{host}:{port}"
    fits = TCP_ADDRESS.match(meant) is not None and host != "" and not text.startswith(("unix:", "fd:"))
    return f'; perhaps "{meant}"' if fits else f" (write {forms})"


def _parse_unix(value: dict[str, Any]) -> UnixAddress:
    unknown = sorted(set(value) - {"unix", "mode", "group"})
    if unknown:
        raise fault("unknown-key", "unknown key {key} (write unix, mode or group)", key=unknown[0])
    path, mode, group = value.get("unix"), value.get("mode", "0600"), value.get("group")
    if not isinstance(path, str) or not path or "\0" in path:
        raise fault("address", "the path of the Unix socket is missing (write it as `unix: PATH`)")
    if not isinstance(mode, str) or not _MODE.match(mode):
        raise fault("mode", 'the value is not an octal mode (write "0660", with the quotes)', key="mode")
    if group is not None and (not isinstance(group, str) or not group):
        raise fault("type", "expected the name of a group, such as www-data", key="group")
    return UnixAddress(path, int(mode, 8), group)


def dump_address(address: Address) -> str | dict[str, str]:
    """The address in the shortest form that a manifest can contain."""
    if not isinstance(address, UnixAddress) or (address.mode == 0o600 and address.group is None):
        return str(address)
    full = {"unix": address.path, "mode": f"{address.mode:04o}"}
    return full | ({"group": address.group} if address.group is not None else {})


Listen: TypeAlias = Annotated[
    TcpAddress | UnixAddress | FdAddress | SystemdAddress,
    PlainValidator(parse_address),
    PlainSerializer(dump_address),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": LISTEN_PATTERN},
                {
                    "type": "object",
                    "properties": {
                        "unix": {
                            "type": "string",
                            "minLength": 1,
                            "description": "Path of the socket, relative to the manifest's folder.",
                            "examples": ["/run/users/http.sock"],
                        },
                        "mode": {
                            "type": "string",
                            "pattern": MODE_PATTERN,
                            "default": "0600",
                            "description": "Permission bits of the socket, as octal digits in quotes.",
                            "examples": ["0660"],
                        },
                        "group": {
                            "type": "string",
                            "minLength": 1,
                            "description": "Group that owns the socket.",
                            "examples": ["www-data"],
                        },
                    },
                    "required": ["unix"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
    Format("an address to listen on", f"write {_LISTEN_FORMS}"),
]


# Addresses of channels ------------------------------------------------------------------------------------------------

TCP_PATTERN = r"^(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]*):[0-9]{1,5}$"
_TCP_FORMAT = Format("an address", "write host:port, such as 127.0.0.1:9000")
_TCP_SCHEMA = {"type": "string", "pattern": TCP_PATTERN}


def parse_tcp(value: Any) -> TcpAddress:
    """Parse `host:port`, `[::1]:port` or `:port`. Raises PydanticCustomError for any other kind of address."""
    if isinstance(value, TcpAddress):
        return value
    text = text_of(value, "host:port", "127.0.0.1:9000")
    if not TCP_ADDRESS.match(text):
        raise fault(
            "address", '"{text}" is not host:port{hint}', text=text[:80], hint=_address_hint(text, 9000, "host:port")
        )
    address = parse_address(text)
    assert isinstance(address, TcpAddress)
    return address


def _parse_target(value: Any) -> TcpAddress:
    address = parse_tcp(value)
    if not address.host or not address.port:
        raise fault("address", '"{text}" lacks a host or a port to connect to (write host:port)', text=str(address))
    return address


TcpListen: TypeAlias = Annotated[
    TcpAddress, PlainValidator(parse_tcp), PlainSerializer(str), WithJsonSchema(_TCP_SCHEMA), _TCP_FORMAT
]
TcpTarget: TypeAlias = Annotated[
    TcpAddress, PlainValidator(_parse_target), PlainSerializer(str), WithJsonSchema(_TCP_SCHEMA), _TCP_FORMAT
]
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # IPv4 addresses in IPv6 (RFC 4291, section 2.5.5.2)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener on this host."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback  # Python considers mapped addresses from 3.13 on
    except ValueError:  # a name may resolve to any address; an empty host is every interface
        return False


def everybody(entries: Iterable[str]) -> bool:
    """Whether addresses and networks have every IPv4 or every IPv6 address together: `0.0.0.0/0`, `::/0`, `*`, or their
    halves. Entries that are none are ignored."""
    four: list[ipaddress.IPv4Network] = []
    six: list[ipaddress.IPv6Network] = []
    for entry in entries:
        if entry == "*":
            return True
        try:
            network = ipaddress.ip_network(entry, strict=False)
        except ValueError:
            continue
        if isinstance(network, ipaddress.IPv4Network):
            four.append(network)
        elif network.subnet_of(_MAPPED):
            four.append(ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96)))
        else:
            six.append(network)
    lengths = [each.prefixlen for each in ipaddress.collapse_addresses(four)]
    lengths += [each.prefixlen for each in ipaddress.collapse_addresses(six)]
    return 0 in lengths
