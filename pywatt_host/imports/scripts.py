"""What is read out of a file that starts a server: its commands, and what else it says."""

from __future__ import annotations

from dataclasses import dataclass, field

from pywatt_host.imports.draft import Setting
from pywatt_host.imports.findings import Finding
from pywatt_host.imports.shell import SimpleCommand
from pywatt_host.imports.text import Text


@dataclass(slots=True)
class Script:
    """The commands of a file, and what else is in it. `socket` is the systemd unit that opens the sockets."""

    commands: list[SimpleCommand] = field(default_factory=list)
    folder: Text | None = None
    findings: list[Finding] = field(default_factory=list)
    socket: Setting | None = None


def logical_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a file, with those together that a backslash joins. Comments between them are left out."""
    found: list[tuple[int, str]] = []
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if joined and line.lstrip().startswith("#"):
            continue
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        found.append((start, (joined + line).strip()))
        start, joined = 0, ""
    return found + ([(start, joined.strip())] if joined else [])
