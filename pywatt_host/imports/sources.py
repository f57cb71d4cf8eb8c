"""The servers whose configuration can be imported, and how each is read.

Adding one is a file beside this one, and a row in `SOURCES`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Finding, Place, UnreadableError
from pywatt_host.imports.inputs import decoded, read_text
from pywatt_host.imports.manifest_text import manifest_text
from pywatt_host.imports.servers import server_command

COMMAND_LINE = "command line"
_HEALTH = "the host answers the paths /health, /livez and /readyz itself, where the application does not"


@dataclass(frozen=True, slots=True)
class SourceKind:
    """How a kind of configuration is read. `module` is loaded when it is used. `suffixes` are those of configuration
    files, which its `from_file` reads; any other file is looked through for a command that starts `program`, for its
    `from_command`. Without `program`, every file is a configuration."""

    module: str
    program: str = ""
    suffixes: tuple[str, ...] = ()


SOURCES = {
    "unit": SourceKind("pywatt_host.imports.unit"),
    "gunicorn": SourceKind("pywatt_host.imports.gunicorn", "gunicorn", (".py",)),
    "uvicorn": SourceKind("pywatt_host.imports.uvicorn", "uvicorn"),
    "hypercorn": SourceKind("pywatt_host.imports.hypercorn", "hypercorn", (".toml", ".py")),
    "procfile": SourceKind("pywatt_host.imports.procfile"),
}


@dataclass(frozen=True, slots=True)
class Imported:
    """The files by name, the first of which is the manifest or the workspace, and what the reader has to know."""

    files: Mapping[str, str]
    findings: tuple[Finding, ...]


def import_configuration(
    kind: str,
    words: Sequence[str],
    *,
    destination: Path,
    environ: Mapping[str, str],
    app: str | None = None,
    stdin: Callable[[], bytes] = lambda: b"",
) -> Imported:
    """Import a configuration. `words` is the name of a file, `-` for standard input, or a command line. `destination`
    is the folder that the manifest is for, `app` the application if the configuration names none. Raises
    UnreadableError."""
    source = SOURCES[kind]
    module = import_module(source.module)
    draft = Draft(Path.cwd(), destination, environ, app)
    path = _file(words)
    if path is None and words != ["-"] and not source.program:
        raise UnreadableError(
            Place(words[0]), "the file does not exist", "give the path of the configuration, or - for standard input"
        )
    if path is not None:
        draft.folder = Path(os.path.abspath(path)).parent
    shown = words[0] if path is not None else "standard input" if list(words) == ["-"] else COMMAND_LINE
    if source.program and not (path is not None and path.suffix in source.suffixes):
        _from_command(module, source.program, words, path, shown, draft, stdin)
        drafts = [draft]
    elif path is None and source.program == "":
        drafts = module.from_text(decoded(stdin(), shown), shown, draft)
    elif source.program:
        module.from_file(path, shown, draft)
        drafts = [draft]
    else:
        drafts = module.from_file(path, shown, draft)
    return _finished(drafts, kind, shown)


def _finished(drafts: Sequence[Draft], kind: str, shown: str) -> Imported:
    files: dict[str, str] = {}
    findings: list[Finding] = []
    for draft in drafts:
        if draft.get("app.import_path") is None and not draft.get("mounts") and not draft.get("modules"):
            raise UnreadableError(
                Place(shown), "the configuration names no application", "name it with --app MODULE:ATTRIBUTE"
            )
        if "modules" not in draft.data:
            draft.note(
                "differs", Setting("health", None, Place(draft.name)), _HEALTH, "health: false switches that off"
            )
        files[draft.name] = manifest_text(draft, f"{kind} ({shown})")
        findings += [each for each in draft.findings if each not in findings]
    return Imported(files, tuple(findings))


def _file(words: Sequence[str]) -> Path | None:
    """The file that the words name; None for a command line and for standard input."""
    if len(words) != 1 or words[0] == "-":
        return None
    try:
        there = os.path.lexists(words[0])
    except ValueError:
        there = False
    looks_like_one = (
        not any(char.isspace() for char in words[0]) and ("/" in words[0] or "." in words[0]) and ":" not in words[0]
    )
    return Path(words[0]) if there or looks_like_one else None


def _from_command(
    module: object,
    program: str,
    words: Sequence[str],
    path: Path | None,
    shown: str,
    draft: Draft,
    stdin: Callable[[], bytes],
) -> None:
    if path is not None:
        text = read_text(path, shown)
    elif list(words) == ["-"]:
        text = decoded(stdin(), shown)
    else:
        text = words[0] if len(words) == 1 else shlex.join(words)
    command = server_command(text, shown, [program])
    if command is None and path is None and list(words) != ["-"]:
        command = server_command(f"{program} {text}", shown, [program])
    if command is None:
        raise UnreadableError(
            Place(shown), f"there is no command that starts {program}", f"write it as in a shell: {program} module:app"
        )
    module.from_command(command, draft)  # type: ignore[attr-defined]  # each module with a program has it
