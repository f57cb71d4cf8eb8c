"""The manifest as it will be where it is deployed: without the overrides of this shell, and with the names of the
variables that it reads."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pywatt_host.export.facts import Facts
from pywatt_host.manifest import Problem, Source, load
from pywatt_host.manifest.load import OVERRIDE_PREFIX
from pywatt_host.manifest.source import DEFAULT_NAME

_PROFILE = "PYWATT_PROFILE"
_UNSET = re.compile(r"the variable (\w+) is not set\Z")


class _Noted(dict[str, str]):
    """An environment that notes what is looked up in it, and found."""

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
    """The facts and what is to be known of the manifest. `environ` gives `${VAR}`; variables that are not set are
    warnings. `command` is how the files are made again. Raises ManifestError."""
    noted = _Noted({name: value for name, value in environ.items() if not name.startswith(OVERRIDE_PREFIX)})
    loaded = load(source, profile=profile, environ=noted, allow_unset=True)
    unset = {match[1] for problem in loaded.warnings if (match := _UNSET.match(problem.message))}
    variables = tuple(sorted((noted.found | unset) - {_PROFILE}))
    active = profile if profile is not None else noted.get(_PROFILE, "") or ""
    return Facts(loaded.manifest, _target(source), active, variables, command), loaded.warnings


def _target(source: Source) -> str:
    """What `run` is given in the module's folder."""
    if source.script is not None:
        return source.script.name
    name = source.name if source.path is None else source.path.name
    return "." if name == DEFAULT_NAME else name
