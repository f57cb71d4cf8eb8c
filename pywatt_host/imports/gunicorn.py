"""gunicorn: its configuration file, which is read without being run, and its command line."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from pywatt_host.imports.common import there
from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.gunicorn_settings import SYSTEMD, fill
from pywatt_host.imports.gunicorn_table import HOOKS, LOST, OPTIONS
from pywatt_host.imports.options import parse
from pywatt_host.imports.python_settings import python_settings
from pywatt_host.imports.servers import ServerCommand
from pywatt_host.imports.shell import commands

_CONFIG = "gunicorn.conf.py"
NAMES = frozenset({option.name for option in OPTIONS} | set(HOOKS) | set(LOST) | {"wsgi_app"})


def from_file(path: Path, name: str, draft: Draft) -> None:
    """Fill in a manifest from a configuration file."""
    settings = _defaults(draft.environ)
    settings |= python_settings(path, name, draft, NAMES)
    settings |= _from_environment(draft)
    fill(draft, settings)


def from_command(command: ServerCommand, draft: Draft) -> None:
    """Fill in a manifest from a command line, and from the configuration file that gunicorn would read with it."""
    draft.findings += command.findings
    line = parse(command.words, OPTIONS, command.place.file, "gunicorn")
    given = {setting.name: setting for setting in line.settings}
    environ = {**draft.environ, **{name: str(word.text) for name, word in command.variables.items() if word.plain}}
    cmd_args = _from_environment(draft, environ)
    config = given.pop("config", None) or cmd_args.pop("config", None)
    settings = _defaults(environ)
    base = draft.folder
    if command.folder is not None:
        draft.folder = base / draft.plain(Setting("cd", command.folder, command.place))
    path, name = _config_path(draft, config)
    if path is not None:
        settings |= python_settings(path, name, draft, NAMES)
    settings |= cmd_args
    settings |= given
    if command.folder is not None and "chdir" not in settings:
        draft.folder = base
        settings["chdir"] = Setting("chdir", command.folder, command.place)
    if line.words:
        first = line.words[0]
        settings["wsgi_app"] = Setting("wsgi_app", first.text, Place(command.place.file, first.line))
        for more in line.words[1:]:
            draft.lost(
                Setting("arguments", None, Place(command.place.file, more.line)),
                f'"{more.plain[:60]}" is a word that gunicorn ignores',
            )
    if command.socket is not None:
        settings["bind"] = Setting(command.socket.name, SYSTEMD, command.socket.place)
    fill(draft, settings, command.variables, command.place)


def _config_path(draft: Draft, config: Setting | None) -> tuple[Path | None, str]:
    if config is None:
        path = draft.folder / _CONFIG
        return (path, os.path.relpath(path)) if path.is_file() else (None, "")
    text = draft.plain(config)
    if text.startswith("python:"):
        module = text.removeprefix("python:")
        path = draft.folder / (module.replace(".", "/") + ".py")
        if not path.is_file():
            raise UnreadableError(
                config.place, f"the module {module[:80]} of the configuration was not found", "import its file"
            )
    else:
        path = draft.folder / text.removeprefix("file:")
        there(path, config)
    return path, os.path.relpath(path)


def _defaults(environ: Mapping[str, str]) -> dict[str, Setting]:
    """The settings that variables of the environment give."""
    if environ.get("WEB_CONCURRENCY"):
        return {"workers": Setting("workers", environ["WEB_CONCURRENCY"], Place("WEB_CONCURRENCY"))}
    return {}


def _from_environment(draft: Draft, environ: Mapping[str, str] | None = None) -> dict[str, Setting]:
    arguments = (environ or draft.environ).get("GUNICORN_CMD_ARGS", "")
    if not arguments.strip():
        return {}
    words = (
        [
            word
            for command in commands(shlex.join(shlex.split(arguments)), "GUNICORN_CMD_ARGS")
            for word in command.words
        ]
        if _closed(arguments)
        else []
    )
    return {each.name: each for each in parse(words, OPTIONS, "GUNICORN_CMD_ARGS", "gunicorn").settings}


def _closed(text: str) -> bool:
    try:
        shlex.split(text)
    except ValueError:
        raise UnreadableError(Place("GUNICORN_CMD_ARGS"), "a quote is not closed") from None
    return True
