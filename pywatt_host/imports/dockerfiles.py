"""A Dockerfile that starts a server: what its last stage runs, and the variables that it has there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from pywatt_host.imports.findings import Finding, Place
from pywatt_host.imports.scripts import Script, logical_lines
from pywatt_host.imports.shell import commands
from pywatt_host.imports.shell_words import Word, assigned, is_assignment
from pywatt_host.imports.text import Template, Variable

_NOTED = ("USER", "WORKDIR", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL")
_SHELLS = re.compile(r"(/usr)?(/bin/)?(ba|da|a)?sh\Z")
_WORDS_OF_SHELL = 3  # sh -c TEXT
# Characters that a shell would read otherwise, and quotes, in which it does not.
_OF_SHELL = re.compile(r"""\\.|"(?:\\.|[^"\\])*"|'[^']*'|[;|&()<>#`]""")
_Arguments: TypeAlias = "list[str] | str"


@dataclass(slots=True)
class _Stage:
    """A stage: its variables, its build arguments, and what it runs. `own` says that the command is not that of the
    stage that it starts from."""

    variables: dict[str, Word] = field(default_factory=dict)
    arguments: dict[str, Word] = field(default_factory=dict)
    entry: _Arguments | None = None
    command: _Arguments | None = None
    own: bool = False
    line: int = 1
    findings: list[Finding] = field(default_factory=list)


def dockerfile(text: str, file: str) -> Script:
    """The command of the last stage. A stage has what the one has that it starts from."""
    stages: dict[str, _Stage] = {}
    stage = _Stage()
    for number, line in logical_lines(text):
        word, _, rest = line.partition(" ")
        word, rest = word.upper(), rest.strip()
        if word == "FROM":
            names = [each for each in rest.split() if not each.startswith("--")]
            stage = _from(stages.get(names[0].lower()) if names else None)
            if len(names) == 3:  # FROM image AS name
                stages[names[2].lower()] = stage
            stages[str(sum(each.isdecimal() for each in stages))] = stage
        elif word in ("ENV", "ARG"):
            found = _assigned(rest, file, number, stage.arguments | stage.variables)
            if word == "ENV":
                stage.variables |= found
            else:
                stage.arguments |= found
        elif word == "ENTRYPOINT":
            stage.entry, stage.line = _listed(rest), number
            stage.command = stage.command if stage.own else None
        elif word == "CMD":
            stage.command, stage.own, stage.line = _listed(rest), True, number
        elif word in _NOTED:
            hint = "run `pywatt-host export dockerfile`, which writes a Dockerfile, and look for it there"
            stage.findings.append(Finding("lost", Place(file, number), word, "an instruction of the Dockerfile", hint))
    known = {name: _or_given(name, value) for name, value in stage.variables.items()}
    started = commands(_run(stage), file, stage.line, exported=stage.variables, known=known)
    return Script(started, findings=stage.findings)


def _from(base: _Stage | None) -> _Stage:
    if base is None:
        return _Stage()
    return replace(base, variables=dict(base.variables), arguments={}, own=False, findings=list(base.findings))


def _assigned(text: str, file: str, line: int, known: Mapping[str, Word]) -> dict[str, Word]:
    """The variables of `NAME=value NAME=value`, or of `NAME the whole value`."""
    name, _, value = text.partition(" ")
    if "=" not in name and value:
        value = value.strip()
        bare = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
        escaped = bare.replace('"', '\\"').replace("`", "\\`")
        text = f'{name}="{escaped}"'
    plain = _OF_SHELL.sub(lambda match: match[0] if len(match[0]) > 1 else f"\\{match[0]}", text)
    words = commands(f"true {plain}", file, line, known=known)[0].words[1:]
    return dict(assigned(each) for each in words if is_assignment(each))


def _or_given(name: str, value: Word) -> Word:
    """The text in place of a variable. It stays a variable, since a container can be started with another value."""
    made = Template((Variable(name, value.text),)) if isinstance(value.text, str) and value.text else None
    return replace(value, text=made) if made is not None and made.writable else value


def _listed(text: str) -> _Arguments:
    """The words of an instruction in JSON; the text of one that a shell runs."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(found, list):
        return text
    words = [str(each) for each in found]
    if len(words) == _WORDS_OF_SHELL and _SHELLS.match(words[0]) and words[1] in ("-c", "-ec", "-lc"):
        return words[2]
    return words


def _run(stage: _Stage) -> str:
    """The command line of a stage. A shell that is the entry point gets no further words."""
    parts = [stage.entry] if isinstance(stage.entry, str) else [stage.entry, stage.command]
    return " ".join(each if isinstance(each, str) else " ".join(map(_quoted, each)) for each in parts if each)


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"
