"""A draft as the text of a manifest, checked with the code that loads manifests."""

from __future__ import annotations

from typing import Any

from pywatt_host.exceptions import ManifestError
from pywatt_host.export.text import comment, document
from pywatt_host.imports.draft import Draft, Setting
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.text import escaped
from pywatt_host.manifest import Problem, Source, load
from pywatt_host.manifest.workspace import load_workspace

_ORDER = ("module", "app", "mounts", "endpoints", "server", "secrets", "metrics", "logging")
_APP_ORDER = ("import_path", "interface", "factory", "args", "route_prefix", "working_dir", "threads", "env")
# What a machine has, and not a manifest: these are faults where the manifest will not run.
_OF_MACHINE = frozenset({"no-folder", "working-dir", "no-file", "no-directory"})
_UNSET = "variable-unset"  # the only warning that says what is left to do


def manifest_text(draft: Draft, source: str) -> str:
    """The text of the manifest. `source` is what was imported, for the comment at its top. Faults that the host would
    report become findings. Raises UnreadableError if there is no application, or if the manifest is not valid."""
    if "modules" in draft.data:
        return _workspace_text(draft, source)
    if draft.secrets:
        keys: Any = list(draft.secrets)
        draft.data["secrets"] = {"sources": draft.secret_sources, "keys": keys} if draft.secret_sources else keys
    data = {key: draft.data[key] for key in _ORDER if draft.data.get(key) not in (None, {}, [])}
    if isinstance(data.get("app"), dict):
        app = data["app"]
        data["app"] = {key: app[key] for key in _APP_ORDER if key in app}
        if list(data["app"]) == ["import_path"]:
            data["app"] = app["import_path"]
    _shorten(data)
    text = _head(source) + document(escaped(data))
    _check(draft, text)
    return text


def _head(source: str) -> str:
    return comment([f"Imported from {source} by pywatt-host import, which listed what it could not take over."])


def _workspace_text(draft: Draft, source: str) -> str:
    text = _head(source) + document(escaped(draft.data))
    try:
        load_workspace(Source.of_text(text, name=draft.name, directory=draft.destination), environ={})
    except ManifestError as error:
        if hard := _hard(error):
            raise _invalid(draft, hard[0]) from None
    return text


def _hard(error: ManifestError) -> list[Problem]:
    """The problems that make a manifest invalid on every machine."""
    return [each for each in error.problems if each.severity == "error" and each.code not in _OF_MACHINE]


def _invalid(draft: Draft, problem: Problem) -> UnreadableError:
    message = f"{problem.path}: {problem.message}"
    return UnreadableError(Place(draft.name), message, "the configuration has a value that the manifest does not allow")


def _shorten(data: dict[str, Any]) -> None:
    workers = data.get("server", {}).get("workers")
    if isinstance(workers, dict) and list(workers) == ["count"]:
        data["server"]["workers"] = workers["count"]


def _check(draft: Draft, text: str) -> None:
    source = Source.of_text(text, name=draft.name, directory=draft.destination)
    try:
        found = load(source, profile="", environ=dict(draft.environ) | {"PYWATT_PROFILE": ""}, allow_unset=True)
    except ManifestError as error:
        if hard := _hard(error):
            raise _invalid(draft, hard[0]) from None
        for problem in error.problems:
            if problem.severity != "error" and problem.code != _UNSET:
                continue
            draft.note("todo", Setting(problem.path, None, Place(draft.name)), problem.message, problem.hint)
        return
    for name in sorted(found.unset):
        draft.note(
            "todo",
            Setting(name, None, Place(draft.name)),
            "the manifest reads this variable",
            "set it before the host starts",
        )
