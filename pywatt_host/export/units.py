"""The syntax of systemd units (systemd.syntax(7), systemd.exec(5))."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pywatt_host.manifest.problems import printable

# Restrictions that the host and most applications can work with. Users may add more.
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
    """Quote a word for a list of words. `%` stays as it is, for specifiers."""
    if text and _PLAIN.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def assignment(name: str, value: str) -> str:
    """An `Environment=` line. `%` in the value begins a specifier."""
    return f"Environment={quoted(f'{name}={value}')}"


def command(key: str, arguments: Sequence[str]) -> str:
    """An `ExecStart=` line, or a similar one, with literal arguments: `%` and `$` are escaped."""
    return f"{key}={' '.join(quoted(each.replace('%', '%%').replace('$', '$$')) for each in arguments)}"


def unit(sections: Mapping[str, Sequence[str]], wanted_by: str) -> str:
    """The text of a unit. Line breaks in values are escaped."""
    written = dict(sections) | {"Install": [f"WantedBy={wanted_by}"]}
    parts = [f"[{name}]\n" + "".join(printable(line) + "\n" for line in lines) for name, lines in written.items()]
    return "\n" + "\n".join(parts)
