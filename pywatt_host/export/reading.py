"""Reads the manifest as the deployment will: without the overrides of this shell, and with the names of the variables
that it reads."""

from __future__ import annotations

from collections.abc import Mapping

from pywatt_host.export.facts import Facts
from pywatt_host.manifest import Problem, Source, load
from pywatt_host.manifest.load import OVERRIDE_PREFIX
from pywatt_host.manifest.source import DEFAULT_NAME

_PROFILE = "PYWATT_PROFILE"


class _RecordingEnviron(dict[str, str]):
    """An environment that records the names of the variables that were looked up and found."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        super().__init__(environ)
        self.found: set[str] = set()

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]  # of texts alone
        if name in self:
            self.found.add(name)
        return super().get(name, default)


def read(
    source: Source, *, profile: str | None, environ: Mapping[str, str], command: str
) -> tuple[Facts, tuple[Problem, ...]]:
    """Read a manifest. Returns its facts, and its warnings. `environ` has the values of `${VAR}`; a variable that is
    not set is a warning. `command` is the command that generates the files again. Raises ManifestError."""
    recording = _RecordingEnviron(
        {name: value for name, value in environ.items() if not name.startswith(OVERRIDE_PREFIX)}
    )
    loaded = load(source, profile=profile, environ=recording, allow_unset=True)
    variables = tuple(sorted((recording.found | loaded.unset) - {_PROFILE}))
    active = profile if profile is not None else recording.get(_PROFILE, "") or ""
    return Facts(loaded.manifest, _target(source), active, variables, command), loaded.warnings


def _target(source: Source) -> str:
    """The argument of `run` in the module's folder."""
    if source.script is not None:
        return source.script.name
    name = source.name if source.path is None else source.path.name
    return "." if name == DEFAULT_NAME else name
