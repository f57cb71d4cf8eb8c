"""What `validate` finds out about the values in profiles that are not active."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pywatt_host.manifest import Problem
from pywatt_host.manifest.load import examine
from pywatt_host.manifest.problems import Report, display_path
from pywatt_host.manifest.source import DEFAULT_NAME, Source, read_source
from pywatt_host.manifest.yaml.node import Node

# Codes of faults that a value has by itself, whatever else is set when the profile is active.
_OF_A_VALUE = frozenset(
    (
        *("type", "choice", "range", "length", "pattern", "duration", "size", "rate", "percentage", "mode"),
        *("import-path", "method"),
    )
)


def profile_problems(source: Source, found: Sequence[Problem]) -> Iterator[Problem]:
    """The faulty values in the profiles of a file, apart from those that are already `found`. A value with `${...}` is
    not checked, because its variable may be another one where the profile is used."""
    tree = read_source(source, DEFAULT_NAME, Report()) if source.data is None else None
    profiles = tree.value.get("profiles") if tree is not None else None
    if profiles is None or not isinstance(profiles.value, dict):
        return
    told = {(each.line, each.column) for each in found}
    for name, node in profiles.value.items():
        places = set(_places(node))
        for problem in examine(source, profile=name, environ={}, allow_unset=True).problems:
            place = problem.line, problem.column
            if problem.code in _OF_A_VALUE and place in places and place not in told:
                told.add(place)
                yield replace(problem, path=f"{display_path(('profiles', name))}.{problem.path}")


def _places(node: Node) -> Iterator[tuple[int, int]]:
    """Line and column of each value without a variable."""
    if isinstance(node.value, dict):
        for item in node.value.values():
            yield from _places(item)
    elif isinstance(node.value, list):
        for item in node.value:
            yield from _places(item)
    elif not (isinstance(node.value, str) and "${" in node.value):
        yield node.mark.line, node.mark.column
