"""The questions that verbs ask about applications, each answered by a child process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pywatt_host.app.route_report import HiddenRoute, RouteRow
from pywatt_host.app.unmatched_rules import UnmatchedRule
from pywatt_host.cli.inspection.asking import ask_child
from pywatt_host.cli.inspection.result import ChildPlace, Failure, Fault, Inspection, Request, Seen, Served
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Problem, Source
from pywatt_host.manifest.values.names import Script


def describe(script: Script, *, timeout: float = 60.0, place: ChildPlace | None = None) -> Source:
    """The manifest that a decorated function in a Python file amounts to.

    Raises ManifestError, and AppLoadError with a note (PEP 678) that is the traceback of what the file raised, or what
    it printed before it ended the process.
    """
    answer = ask_child({"describe": os.path.abspath(script.path), "name": script.name}, timeout, place=place)
    if isinstance(answer, Failure):
        raise _with_note(AppLoadError(str(script), "module-raised", answer.message, answer.hint), answer.output)
    if "problems" in answer:
        raise ManifestError([Problem(**each) for each in answer["problems"]])
    if "error" in answer:
        raise _with_note(AppLoadError(**answer["error"]), answer["trace"])
    if answer["manifest_file"] is not None:
        return Source.file(answer["manifest_file"])
    return Source.of_data(
        answer["data"], name=answer["name"], directory=Path(answer["directory"]), script=Path(str(script))
    )


def _with_note(error: AppLoadError, note: str) -> AppLoadError:
    if note:
        error.add_note(note)
    return error


def serve_once(
    manifest: str,
    directory: Path,
    working_dir: Path,
    requests: Sequence[tuple[str, Sequence[str]]],
    *,
    name: str,
    timeout: float = 60.0,
    progress: Callable[[str], None] = lambda line: None,
) -> Served:
    """Serve the text of a manifest in a child process, and ask its host for each path with each method. No handler of
    the application runs for that, but its start-up does. Bounded by `timeout` seconds. `directory` is the folder of the
    manifest, and `working_dir` that of the application."""
    asked = {
        "serve": manifest,
        "directory": os.fspath(directory),
        "working_dir": os.fspath(working_dir),
        "name": name,
        "requests": requests,
    }
    answer = ask_child(asked, timeout, progress)
    if isinstance(answer, Failure):
        return Served(failure=str(answer), trace=answer.output)
    return Served(**{**answer, "refused": tuple(answer["refused"])})


def _seen(fault: dict[str, Any] | None, doubts: list[str], **fields: Any) -> Seen:
    return Seen(**fields, doubts=tuple(doubts), fault=Fault(**fault) if fault is not None else None)


def inspect_apps(
    asked: Request, *, timeout: float = 60.0, progress: Callable[[str], None] = lambda line: None
) -> Inspection:
    """Look at the applications of a valid manifest. Bounded by `timeout` seconds; never raises for what they do.
    `progress` is told what an import that takes long waits for."""
    document = {
        "path": os.path.abspath(asked.source.path) if asked.source.path is not None else None,
        "data": asked.source.data,
        "script": os.path.abspath(asked.source.script) if asked.source.script is not None else None,
        "name": asked.source.name,
        "directory": os.fspath(asked.source.directory),
        "profile": asked.profile,
        "overrides": list(asked.overrides),
        "env_file": os.path.abspath(asked.env_file) if asked.env_file is not None else None,
        "allow_unset": asked.allow_unset,
        "build": asked.build,
        "partial": asked.partial,
        "skipped": list(asked.skipped),
        "init": asdict(asked.init) if asked.init is not None else None,
    }
    answer = ask_child(document, timeout, progress, asked.place)
    if isinstance(answer, Failure):
        return Inspection(failure=answer)
    apps = [_seen(**each) for each in answer["apps"]]
    rows = [RouteRow(**{**each, "methods": tuple(each["methods"])}) for each in answer["rows"]]
    hidden = [HiddenRoute(*each) for each in answer["hidden"]]
    return Inspection(apps, rows, hidden, [UnmatchedRule(*each) for each in answer["unmatched"]])
