"""How units of systemd are written (systemd.syntax(7), systemd.exec(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pywatt_host.manifest.problems import printable

# What the host and most applications can do without; the rest is theirs to add.
HARDENED = {
    "CapabilityBoundingSet": "",
    "LockPersonality": "yes",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "SystemCallFilter": "@system-service",
    "UMask": "0077",
}

_PLAIN = re.compile(r"[A-Za-z0-9_./:@%=,+-]*\Z")


def quoted(text: str) -> str:
    """A word as it must stand in a list of words; `%` is left to specifiers."""
    if text and _PLAIN.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def assignment(name: str, value: str) -> str:
    """`Environment=`, for a value in which `%` stands for specifiers."""
    return f"Environment={quoted(f'{name}={value}')}"


def command(key: str, arguments: Sequence[str]) -> str:
    """`ExecStart=` and the like, for arguments in which nothing stands for anything else."""
    return f"{key}={' '.join(quoted(each.replace('%', '%%').replace('$', '$$')) for each in arguments)}"


def unit(sections: Mapping[str, Sequence[str]], wanted_by: str) -> str:
    """The text of a unit. Nothing in it breaks its line."""
    written = dict(sections) | {"Install": [f"WantedBy={wanted_by}"]}
    parts = [f"[{name}]\n" + "".join(printable(line) + "\n" for line in lines) for name, lines in written.items()]
    return "\n" + "\n".join(parts)
