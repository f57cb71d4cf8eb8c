"""What the child process is asked, and what it found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pywatt_host.app.route_report import HiddenRoute, RouteRow
from pywatt_host.app.unmatched_rules import UnmatchedRule
from pywatt_host.manifest import Source
from pywatt_host.manifest.load import InitLayer


@dataclass(frozen=True, slots=True)
class ChildPlace:
    """Where a child runs instead of here: its environment and its folder, as `up` starts a module."""

    environ: Mapping[str, str]
    directory: Path


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is to look at. `partial`: the manifest is faulty, and the child looks at what can be read of it,
    apart from the applications whose manifest keys are in `skipped`. `init` is what an orchestrator will say."""

    source: Source
    profile: str | None
    overrides: tuple[str, ...]
    env_file: Path | None
    allow_unset: bool
    build: bool
    partial: bool = False
    skipped: Sequence[str] = ()
    place: ChildPlace | None = None
    init: InitLayer | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an application could not be loaded.

    With `missing_dependency`, its module exists and a package that the module imports does not. `trace` is what the
    application's own code raised, as Python shows it: with notes, causes and the user's frames only. `arguments` has
    the path below `args`, the message and the hint of each argument that does not fit the factory.
    """

    reason: str
    message: str
    hint: str
    missing_dependency: bool
    trace: str
    arguments: Sequence[tuple[Sequence[str | int], str, str]] = ()

    def __str__(self) -> str:
        return self.message + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Seen:
    """One inspected application. With `factory`, it is made by a factory that was not called.

    `partial` says why its table of routes is known to be partial, and `doubts` why it may be.
    """

    key: str
    name: str
    framework: str = ""
    factory: bool = False
    readable: bool = False
    partial: str = ""
    doubts: tuple[str, ...] = ()
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What came of serving a manifest once. `requests` were sent, and `refused` names some of the `number_refused` that
    the host did not let through to the application. `unlisted` says why the application answers paths that are not in
    its table of routes. `failure` says why the application could not be started, and `trace` what it raised."""

    requests: int = 0
    refused: tuple[str, ...] = ()
    number_refused: int = 0
    unlisted: str = ""
    failure: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the child did not answer. `key` is the manifest key of the application that it was importing, and `output`
    the end of what the application printed."""

    message: str
    hint: str = ""
    key: str = "app"
    output: str = ""

    def __str__(self) -> str:
        return self.message + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Inspection:
    """All applications, declared against served, the routes that the host hides, and the rules that protect nothing.
    `failure` says why there is nothing else."""

    apps: list[Seen] = field(default_factory=list)
    rows: list[RouteRow] = field(default_factory=list)
    hidden: list[HiddenRoute] = field(default_factory=list)
    unmatched: list[UnmatchedRule] = field(default_factory=list)
    failure: Failure | None = None
