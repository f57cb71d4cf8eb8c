"""The questions that verbs ask about applications, each answered by a child process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pywatt_host.app.route_report import HiddenRoute, RouteRow
from pywatt_host.app.unmatched_rules import UnmatchedRule
from pywatt_host.cli.inspection.asking import ask_child
from pywatt_host.cli.inspection.result import Failure, Fault, Inspection, Request, Seen
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Problem, Source
from pywatt_host.manifest.values.names import Script


def describe(script: Script, *, timeout: float = 60.0) -> Source:
    """The manifest that a decorated function in a Python file amounts to.

    Raises ManifestError, and AppLoadError with a note (PEP 678) that is the traceback of what the file raised, or what
    it printed before it ended the process.
    """
    answer = ask_child({"describe": os.fspath(script.path), "name": script.name}, timeout)
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


def inspect_apps(
    asked: Request, *, timeout: float = 60.0, progress: Callable[[str], None] = lambda line: None
) -> Inspection:
    """Look at the applications of a valid manifest. Bounded by `timeout` seconds; never raises for what they do.
    `progress` is told what an import that takes long waits for."""
    document = {
        "path": os.fspath(asked.source.path) if asked.source.path is not None else None,
        "data": asked.source.data,
        "script": os.fspath(asked.source.script) if asked.source.script is not None else None,
        "name": asked.source.name,
        "directory": os.fspath(asked.source.directory),
        "profile": asked.profile,
        "overrides": list(asked.overrides),
        "env_file": os.fspath(asked.env_file) if asked.env_file is not None else None,
        "allow_unset": asked.allow_unset,
        "build": asked.build,
        "partial": asked.partial,
        "skipped": list(asked.skipped),
    }
    answer = ask_child(document, timeout, progress)
    if isinstance(answer, Failure):
        return Inspection(failure=answer)
    apps = [Seen(**{**each, "fault": Fault(**each["fault"]) if each["fault"] else None}) for each in answer["apps"]]
    rows = [RouteRow(**{**each, "methods": tuple(each["methods"])}) for each in answer["rows"]]
    hidden = [HiddenRoute(*each) for each in answer["hidden"]]
    return Inspection(apps, rows, hidden, [UnmatchedRule(*each) for each in answer["unmatched"]])
