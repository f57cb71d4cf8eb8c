"""Procfiles of Heroku, foreman and honcho: one line for each type of process."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pywatt_host.imports import gunicorn, hypercorn, uvicorn
from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.inputs import read_text
from pywatt_host.imports.servers import ServerCommand, server_command

_LINE = re.compile(r"([A-Za-z0-9_-]+)\s*:\s*(\S.*)\Z")
_SERVERS = {"gunicorn": gunicorn.from_command, "uvicorn": uvicorn.from_command, "hypercorn": hypercorn.from_command}
_RELEASE = ("release", "postdeploy")


def from_file(path: Path, name: str, draft: Draft) -> list[Draft]:
    """Make a manifest for each type of process that starts a server. `web` becomes pywatt.yaml."""
    processes = list(_processes(read_text(path, name), name))
    served: list[tuple[str, ServerCommand]] = []
    others: list[Setting] = []
    for kind, text, place in processes:
        command = server_command(text, name, _SERVERS, place.line)
        if command is not None:
            served.append((kind, command))
        else:
            others.append(Setting(kind, text, place))
    if not served:
        hint = f"import knows {', '.join(_SERVERS)}; give the application by itself: pywatt-host run module:app"
        raise UnreadableError(Place(name), "no process starts a server that can be imported", hint)
    drafts: list[Draft] = []
    for number, (kind, command) in enumerate(sorted(served, key=lambda each: each[0] != "web")):
        own = replace(
            draft,
            name="pywatt.yaml" if not number else f"{kind}.yaml",
            has_port=True,
            data={},
            findings=[],
            secrets=[],
            secret_sources=[],
        )
        own.app = draft.app if not number else None
        _SERVERS[command.program](command, own)
        if not number and kind != "web":
            own.differs(
                Setting(kind, None, command.place), "is the first process that starts a server, and became pywatt.yaml"
            )
        drafts.append(own)
    for setting in others:
        if setting.name in _RELEASE:
            hint = "run it before each new version starts: in CI, ExecStartPre= of systemd, or an init container"
            drafts[0].lost(setting, "a command that runs before each release", hint)
        else:
            hint = (
                "run it as a service of its own; a module of wattson.yaml has to speak the protocol of the orchestrator"
            )
            drafts[0].lost(setting, "a process that serves no HTTP", hint)
    return drafts


def _processes(text: str, name: str) -> Iterator[tuple[str, str, Place]]:
    seen: set[str] = set()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        if match is None:
            raise UnreadableError(
                Place(name, number),
                "this is not `type: command`",
                "write one process in each line, such as web: gunicorn app:app",
            )
        if match[1] in seen:
            raise UnreadableError(
                Place(name, number), f"the process {match[1][:60]} is given twice", "remove one of them"
            )
        seen.add(match[1])
        yield match[1], match[2], Place(name, number)
