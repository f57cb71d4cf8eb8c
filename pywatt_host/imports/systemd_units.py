"""A systemd unit that starts a server."""

from __future__ import annotations

import re

from pywatt_host.imports.draft import Setting
from pywatt_host.imports.findings import Finding, Place
from pywatt_host.imports.scripts import Script, logical_lines
from pywatt_host.imports.shell import commands
from pywatt_host.imports.shell_words import Word, assigned, is_assignment

_KEY = re.compile(r"([A-Za-z]+)\s*=\s*(.*)\Z", re.DOTALL)
_WITHOUT_EFFECT = ("Description", "After", "Before", "Wants", "WantedBy", "Type", "Restart", "Requires", "Sockets")
_OF_UNITS = ("Requires", "Wants", "Sockets", "BindsTo", "Also")


def systemd_unit(text: str, file: str) -> Script:
    """The command of `ExecStart`, with the variables of `Environment`."""
    script = Script()
    variables: dict[str, Word] = {}
    for number, line in logical_lines(text):
        match = _KEY.match(line)
        if match is None or line.startswith(("#", ";")):
            continue
        key, value = match[1], match[2]
        if key in _OF_UNITS:
            socket = next((each for each in value.split() if each.endswith(".socket")), None)
            if socket is not None and script.socket is None:
                script.socket = Setting(key, socket, Place(file, number))
        if key == "Environment":
            words = commands(f"true {value}", file, number)[0].words[1:]
            variables = variables | dict(map(assigned, filter(is_assignment, words))) if value else {}
        elif key == "ExecStart":
            script.commands += commands(value.lstrip("-@+!:"), file, number, exported=variables)
        elif key == "WorkingDirectory":
            script.folder = value
        elif key not in _WITHOUT_EFFECT:
            hint = "run `pywatt-host export systemd`, which writes a unit, and add it there"
            script.findings.append(Finding("lost", Place(file, number), key, "a setting of the systemd unit", hint))
    return script
