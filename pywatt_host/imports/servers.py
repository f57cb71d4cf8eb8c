"""Finds the command that starts a server: in a command line, a shell script, a systemd unit or a Dockerfile."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from pywatt_host.imports.dockerfiles import dockerfile
from pywatt_host.imports.draft import Setting
from pywatt_host.imports.findings import Finding, Place, UnreadableError
from pywatt_host.imports.scripts import Script
from pywatt_host.imports.shell import SimpleCommand, commands
from pywatt_host.imports.shell_words import Word
from pywatt_host.imports.systemd_units import systemd_unit
from pywatt_host.imports.text import Text

# Programs that run the command after them and change nothing about it, and how many words belong to them.
_TRANSPARENT = {"exec": 1, "nohup": 1, "env": 1, "time": 1, "command": 1, "tini": 1, "dumb-init": 1}
_RUNNERS = frozenset({"poetry", "uv", "pipenv", "pdm", "hatch", "rye"})  # `poetry run PROGRAM`
_WITHOUT_EFFECT = frozenset({"set", "echo", "printf", ":", "true"})  # of a script
_WORDS_OF_CD = 2
_PYTHON = re.compile(r"python[0-9.]*\Z")
_FROM = re.compile(r"FROM\s+\S", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """The command that starts a server: its program, the words after it, the variables that are set for it, and the
    folder that it is started in, where something says so. `socket` is the systemd unit that opens its sockets."""

    program: str
    words: tuple[Word, ...]
    variables: dict[str, Word]
    place: Place
    findings: tuple[Finding, ...] = ()
    folder: Text | None = None
    socket: Setting | None = None


def server_command(text: str, file: str, programs: Collection[str], line: int = 1) -> ServerCommand | None:
    """The command that starts one of these programs; None if there is none. Raises UnreadableError if there are
    several."""
    script = _read(text, file, line)
    found: list[ServerCommand] = []
    others: list[Finding] = []
    folder = script.folder
    for command in script.commands:
        if command.words[0].plain == "cd" and len(command.words) == _WORDS_OF_CD and not found:
            folder = command.words[1].text
            continue
        if command.words[0].plain in _WITHOUT_EFFECT:
            continue
        started = _started(command, file, programs)
        if started is not None:
            found.append(started)
        else:
            name = command.words[0].plain or "a command"
            others.append(
                Finding(
                    "lost",
                    Place(file, command.line),
                    os.path.basename(name)[:60],
                    "another command of the file",
                    "run it before the host starts, if it is needed",
                )
            )
    if not found:
        return None
    if len(found) > 1:
        second = found[1]
        raise UnreadableError(
            second.place, f"the file starts a second server, {second.program}", "import each of them by itself"
        )
    return replace(
        found[0], findings=(*found[0].findings, *script.findings, *others), folder=folder, socket=script.socket
    )


def _started(command: SimpleCommand, file: str, programs: Collection[str]) -> ServerCommand | None:
    words = command.words
    for number, word in enumerate(words):
        name = os.path.basename(word.plain)
        if name not in programs:
            continue
        if number and (words[number - 1].plain.startswith("-") and words[number - 1].plain not in ("-m", "--")):
            continue  # the value of an option of another program
        variables = {name: value for name, value in command.variables.items() if not value.computed}
        findings = [
            Finding("lost", Place(file, value.line), variable, "the shell computes its value", "set it by hand")
            for variable, value in command.variables.items()
            if value.computed
        ]
        for each in _before(words[:number], variables):
            findings.append(
                Finding(
                    "lost",
                    Place(file, command.line),
                    each[:60],
                    f"{name} is started through it",
                    "start pywatt-host through it as well, if it is needed",
                )
            )
        return ServerCommand(name, words[number + 1 :], variables, Place(file, word.line), tuple(findings))
    return None


def _before(words: tuple[Word, ...], variables: dict[str, Word]) -> list[str]:
    """The programs before the server that change how it runs."""
    left = list(words)
    found: list[str] = []
    while left:
        name = os.path.basename(left.pop(0).plain)
        if name in _TRANSPARENT or name in ("--", "-m", "run") or _PYTHON.match(name) or name in _RUNNERS:
            continue
        key, equals, value = name.partition("=")
        if equals and key.isidentifier():
            variables[key] = Word(value, 0)
        elif name:
            found.append(name)
    return found


def _read(text: str, file: str, line: int) -> Script:
    lines = text.splitlines()
    if any(re.match(r"\s*\[(Service|Unit)\]\s*$", each) for each in lines):
        return systemd_unit(text, file)
    if any(_FROM.match(each.strip()) for each in lines) and any(
        each.strip().upper().startswith(("CMD", "ENTRYPOINT")) for each in lines
    ):
        return dockerfile(text, file)
    return Script(commands(text, file, line))
