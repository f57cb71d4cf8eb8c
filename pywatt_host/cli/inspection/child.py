"""The child process: it imports the applications of a manifest, and answers what it found out about them.

It reads one question, in JSON, from standard input. See `asking.py` for the lines that it answers with.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pywatt_host.app.applications import Application
from pywatt_host.app.decorated import Decorated
from pywatt_host.app.introspection import is_factory
from pywatt_host.app.loading import check_factory, check_urls
from pywatt_host.app.route_report import compare, hidden_routes
from pywatt_host.app.unmatched_rules import unmatched_rules
from pywatt_host.app.user_state import UserState
from pywatt_host.build.host import build
from pywatt_host.cli.inspection.asking import MARK
from pywatt_host.cli.inspection.partial import without_references
from pywatt_host.cli.inspection.result import Fault, Seen
from pywatt_host.cli.inspection.serving import serve_once, trace_of
from pywatt_host.cli.inspection.standing import Watch
from pywatt_host.decorator.scripts import load_script
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Source
from pywatt_host.manifest.load import InitLayer, examine
from pywatt_host.manifest.model import DirectoryMount, Manifest
from pywatt_host.manifest.values.names import Script, script_of
from pywatt_host.observability.log_stream import LogStream

_DUMP_BEFORE = 1.0  # seconds before the parent gives up, for an import that holds the interpreter's lock


class _Parent:
    """The pipe to the process that asked."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self.descriptor = descriptor
        self._lock = threading.Lock()

    def tell(self, event: str, document: Any) -> None:
        """Write one line. May be called from any thread."""
        line = memoryview(MARK + json.dumps({event: document}).encode() + b"\n")
        with self._lock:
            while line:
                line = line[os.write(self.descriptor, line) :]


async def _look(application: Application, host: Any, *, build_it: bool) -> Seen:
    options = application.options
    factory = False
    try:
        if not isinstance(options, DirectoryMount):
            application.put_environment({})  # secrets are not fetched to look at an application
            found = application.import_target()
            factory = isinstance(found, Decorated) or is_factory(found, options.factory, options.args)
            if factory and not build_it:
                made_by = found.function if isinstance(found, Decorated) else found
                named = {"import_path": options.import_path, "key": application.key}
                check_factory(made_by, args=options.args, state=host.state, **named)
        if not factory or build_it:
            await application.load(host.state)
            check_urls(application.framework, application.name)
    except (AppLoadError, ManifestError) as error:
        return Seen(application.key, application.name, fault=_fault(error))
    return Seen(
        application.key,
        application.name,
        application.framework,
        factory and not build_it,
        application.routes is not None,
        application.partial,
        tuple(note.text for note in application.notes if not note.certain),
    )


def _look_at_builder(manifest: Manifest, host: Any, objects: Mapping[str, Any]) -> list[Seen]:
    """The state builder, where there is a fault with it."""
    if manifest.state is None:
        return []
    try:
        UserState(manifest, host.state, objects).builder(manifest.state)
    except (AppLoadError, ManifestError) as error:
        return [Seen("state", manifest.state, fault=_fault(error))]
    return []


def _fault(error: AppLoadError | ManifestError) -> Fault:
    if isinstance(error, ManifestError):  # a decorator in the module is wrong
        return Fault("module-raised", "; ".join(map(str, error.problems)), "", False, "")
    cause = error.__cause__
    return Fault(
        error.reason,
        error.message,
        error.hint,
        error.reason == "module-raised" and isinstance(cause, ModuleNotFoundError),
        trace_of(error),
        error.arguments,
    )


def _described(asked: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    watch.importing("app", asked["describe"])
    try:
        module = load_script(Script(Path(asked["describe"]), asked["name"]))
    except ManifestError as error:
        return {"problems": [asdict(problem) for problem in error.problems]}
    except AppLoadError as error:
        fields = {name: getattr(error, name) for name in ("import_path", "reason", "message", "hint")}
        return {"error": fields, "trace": trace_of(error)}
    file = module.manifest_file
    return {
        "data": module.data,
        "name": module.place,
        "directory": os.fspath(module.directory),
        "manifest_file": os.fspath(module.directory / file) if file is not None else None,
    }


async def _answer(asked: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    directory = Path(asked["directory"])
    objects: Mapping[str, Any] = {}
    if asked["script"] is not None:
        script = script_of(asked["script"])
        assert script is not None
        watch.importing("app", asked["script"])
        decorated = load_script(script)
        source, objects = decorated.source(), decorated.objects
    elif asked["path"] is not None:
        source = Source(asked["name"], directory, path=Path(asked["path"]))
    else:
        source = Source.of_data(asked["data"], name=asked["name"], directory=directory)
    examined = examine(
        source,
        profile=asked["profile"],
        overrides=asked["overrides"],
        env_file=Path(asked["env_file"]) if asked["env_file"] else None,
        allow_unset=asked["allow_unset"],
        init=InitLayer(**asked["init"]) if asked["init"] is not None else None,
    )
    if examined.loaded is None or (examined.faulty and not asked["partial"]):
        raise ManifestError(examined.problems)
    manifest = examined.loaded.manifest
    host = build(without_references(manifest) if examined.faulty else manifest, stream=LogStream(2), objects=objects)
    applications = host.applications.all
    seen: list[Seen] = []
    for application in applications:
        if application.key in asked["skipped"]:
            continue
        watch.importing(application.key, application.name)
        seen.append(await _look(application, host, build_it=asked["build"]))
    watch.importing("state", manifest.state or "")
    seen += _look_at_builder(manifest, host, objects)
    watch.importing("", "")
    try:
        rows = compare(manifest, applications)
    except ValueError:  # two endpoints of a faulty manifest match the same requests, which is reported
        rows = []
    return {
        "apps": [asdict(each) for each in seen],
        "rows": [asdict(row) for row in rows],
        "hidden": hidden_routes(manifest, applications),
        "unmatched": unmatched_rules(manifest, applications),
    }


def main() -> None:
    """Answer one question, and end the process."""
    asked = json.load(sys.stdin)
    parent = _Parent(asked["answer_to"])
    left = asked["deadline"] - time.monotonic() - _DUMP_BEFORE
    if left > 0:
        faulthandler.dump_traceback_later(left, file=parent.descriptor)
    watch = Watch(parent.tell)
    watch.start()
    try:
        if "describe" in asked:
            answer = _described(asked, watch)
        elif "serve" in asked:
            watch.importing("app", asked["name"])
            answer = asyncio.run(serve_once(asked))
        else:
            answer = asyncio.run(_answer(asked, watch))
    except ManifestError:
        sys.exit(2)  # the parent loaded the same: its file has changed since
    faulthandler.cancel_dump_traceback_later()
    watch.stop()
    parent.tell("answer", answer)
    os._exit(0)  # threads that the import started are not waited for
