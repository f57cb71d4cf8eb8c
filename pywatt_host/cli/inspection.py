"""Inspects a manifest's applications in a child process: which ones cannot be imported, and which routes they have.

A user's module may do anything when it is imported. It is therefore imported in a process of its own with a time limit,
and the output of that process is dropped. Factories are called only with `build`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pywatt_host.app.applications import Application
from pywatt_host.app.decorated import Decorated
from pywatt_host.app.introspection import is_factory
from pywatt_host.app.route_report import HiddenRoute, RouteRow, compare, hidden_routes
from pywatt_host.app.unmatched_rules import UnmatchedRule, unmatched_rules
from pywatt_host.app.user_state import UserState
from pywatt_host.build.host import build
from pywatt_host.decorator.scripts import load_script
from pywatt_host.exceptions import AppLoadError, ManifestError
from pywatt_host.manifest import Problem, Source, load
from pywatt_host.manifest.model import DirectoryMount, Manifest
from pywatt_host.manifest.values.names import Script, script_of
from pywatt_host.observability.log_stream import LogStream
from pywatt_host.supervision.process import describe_exit, signal_group

_MARK = "pywatt-inspection:"  # before the child's answer, on a descriptor that the user's code does not have


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an application could not be loaded. With `missing_dependency`, its module exists and a package that the
    module imports does not."""

    reason: str
    message: str
    hint: str
    missing_dependency: bool
    trace: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One inspected application. With `factory`, it is made by a factory that was not called."""

    key: str
    name: str
    framework: str = ""
    factory: bool = False
    readable: bool = False
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """All applications, declared against served, the routes that the host hides, and the rules that protect nothing.
    `failure` says why there is nothing else."""

    apps: list[Seen] = field(default_factory=list)
    rows: list[RouteRow] = field(default_factory=list)
    hidden: list[HiddenRoute] = field(default_factory=list)
    unmatched: list[UnmatchedRule] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is to look at."""

    source: Source
    profile: str | None
    overrides: tuple[str, ...]
    env_file: Path | None
    allow_unset: bool
    build: bool


def describe(script: Script, *, timeout: float = 60.0) -> Source:
    """The manifest that a decorated function in a Python file amounts to. Raises AppLoadError and ManifestError."""
    answer = _asked_child({"describe": os.fspath(script.path), "name": script.name}, timeout)
    if isinstance(answer, str):
        raise AppLoadError(str(script), "module-raised", answer)
    if "problems" in answer:
        raise ManifestError([Problem(**each) for each in answer["problems"]])
    if "error" in answer:
        raise AppLoadError(**answer["error"])
    if answer["manifest_file"] is not None:
        return Source.file(answer["manifest_file"])
    return Source.of_data(
        answer["data"], name=answer["name"], directory=Path(answer["directory"]), script=Path(str(script))
    )


def inspect_apps(asked: Request, *, timeout: float = 60.0) -> Inspection:
    """Look at the applications of a valid manifest. Bounded by `timeout` seconds; never raises for what they do."""
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
    }
    answer = _asked_child(document, timeout)
    if isinstance(answer, str):
        return Inspection(failure=answer)
    apps = [Seen(**{**each, "fault": Fault(**each["fault"]) if each["fault"] else None}) for each in answer["apps"]]
    rows = [RouteRow(**{**each, "methods": tuple(each["methods"])}) for each in answer["rows"]]
    hidden = [HiddenRoute(*each) for each in answer["hidden"]]
    return Inspection(apps, rows, hidden, [UnmatchedRule(*each) for each in answer["unmatched"]])


def _asked_child(document: Mapping[str, Any], timeout: float) -> dict[str, Any] | str:
    """What the child answers, or why it does not."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "pywatt_host.cli.inspection"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
        start_new_session=True,
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        try:
            child.communicate(json.dumps({**document, "answer_to": writing}).encode(), timeout=timeout)
        except subprocess.TimeoutExpired:
            return f"importing the application took longer than {timeout:g}s"
        finally:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
        return _parse(answers.read(), child.returncode)


def _parse(answer: bytes, code: int) -> dict[str, Any] | str:
    text = answer.decode("utf-8", "replace")
    if not text.startswith(_MARK):
        return f"importing the application ended the process ({describe_exit(code)})"
    document: dict[str, Any] = json.loads(text[len(_MARK) :])
    return document


# In the child ---------------------------------------------------------------------------------------------------------


async def _look(application: Application, host: Any, *, build_it: bool) -> Seen:
    options = application.options
    factory = False
    try:
        if not isinstance(options, DirectoryMount):
            application.put_environment({})  # secrets are not fetched to look at an application
            found = application.import_target()
            factory = isinstance(found, Decorated) or is_factory(found, options.factory, options.args)
        if not factory or build_it:
            await application.load(host.state)
    except (AppLoadError, ManifestError) as error:
        return Seen(application.key, application.name, fault=_fault(error))
    return Seen(
        application.key,
        application.name,
        application.framework,
        factory and not build_it,
        application.routes is not None,
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
        "".join(traceback.format_exception(cause)) if cause is not None else "",
    )


def _described(asked: Mapping[str, Any]) -> dict[str, Any]:
    try:
        module = load_script(Script(Path(asked["describe"]), asked["name"]))
    except ManifestError as error:
        return {"problems": [asdict(problem) for problem in error.problems]}
    except AppLoadError as error:
        return {"error": {name: getattr(error, name) for name in ("import_path", "reason", "message", "hint")}}
    file = module.manifest_file
    return {
        "data": module.data,
        "name": module.place,
        "directory": os.fspath(module.directory),
        "manifest_file": os.fspath(module.directory / file) if file is not None else None,
    }


async def _answer(asked: Mapping[str, Any]) -> dict[str, Any]:
    directory = Path(asked["directory"])
    objects: Mapping[str, Any] = {}
    if asked["script"] is not None:
        script = script_of(asked["script"])
        assert script is not None
        decorated = load_script(script)
        source, objects = decorated.source(), decorated.objects
    elif asked["path"] is not None:
        source = Source(asked["name"], directory, path=Path(asked["path"]))
    else:
        source = Source.of_data(asked["data"], name=asked["name"], directory=directory)
    manifest = load(
        source,
        profile=asked["profile"],
        overrides=asked["overrides"],
        env_file=Path(asked["env_file"]) if asked["env_file"] else None,
        allow_unset=asked["allow_unset"],
    ).manifest
    host = build(manifest, stream=LogStream(2), objects=objects)
    applications = host.applications.all
    seen = [await _look(application, host, build_it=asked["build"]) for application in applications]
    seen += _look_at_builder(manifest, host, objects)
    return {
        "apps": [asdict(each) for each in seen],
        "rows": [asdict(row) for row in compare(manifest, applications)],
        "hidden": hidden_routes(manifest, applications),
        "unmatched": unmatched_rules(manifest, applications),
    }


def _main() -> None:
    asked = json.load(sys.stdin)
    os.set_inheritable(asked["answer_to"], False)
    try:
        answer = _described(asked) if "describe" in asked else asyncio.run(_answer(asked))
    except ManifestError:
        sys.exit(2)  # the parent loaded the same: its file has changed since
    with os.fdopen(asked["answer_to"], "w", encoding="utf-8") as out:
        out.write(_MARK + json.dumps(answer))
    os._exit(0)  # threads that the import started are not waited for


if __name__ == "__main__":
    _main()
