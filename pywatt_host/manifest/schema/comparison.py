"""Whether the published schema and the typed model agree about a manifest."""

from __future__ import annotations

from functools import cache
from typing import Any

from pywatt_host.exceptions import ManifestError
from pywatt_host.manifest.load import load
from pywatt_host.manifest.problems import Problem, Report
from pywatt_host.manifest.schema import json_schema
from pywatt_host.manifest.schema.json_faults import leaves
from pywatt_host.manifest.schema.json_validator import TooMuchWorkError, errors_of
from pywatt_host.manifest.schema.typing import locate
from pywatt_host.manifest.source import DEFAULT_NAME, Source, read_source
from pywatt_host.manifest.yaml.node import Node

manifest_schema = cache(json_schema.manifest_schema)  # for several manifests in one run; nobody changes it
_CODE = "schema-disagrees"
_HINT = "please report this as an error of pywatt-host"
# Codes of faults that a schema sees in the document alone, whatever the value is.
_SEEN_BY_A_SCHEMA = frozenset(
    (
        *("unknown-key", "missing", "no-value", "type", "choice", "range", "length", "pattern", "duration", "size"),
        *("rate", "percentage", "mode", "import-path", "method"),
    )
)


def disagreements(source: Source) -> list[Problem]:
    """Compare the document, without overrides and variables, with the published schema and with the typed model.

    Returns a warning where only one of the two refuses it, apart from faults that no schema can see. A manifest made in
    code is not compared: no editor reads it.
    """
    tree = read_source(source, DEFAULT_NAME, Report()) if source.data is None else None
    if tree is None:
        return []
    try:
        errors = errors_of(manifest_schema(), tree.plain())
    except TooMuchWorkError:
        return []
    try:
        load(source, profile="", environ={}, allow_unset=True)
        refused: list[Problem] = []
    except ManifestError as error:
        refused = [each for each in error.problems if each.severity == "error"]
    # Of profiles that are not active, the model sees only the structure.
    errors = [each for each in errors if not each.absolute_path or each.absolute_path[0] != "profiles"]
    if errors and not refused:
        return [_refused_by_schema(tree, errors[0])]
    if not errors and refused and all(_visible(each, source) for each in refused):
        return [_refused_by_types(refused[0])]
    return []


def _visible(problem: Problem, source: Source) -> bool:
    """Whether a schema sees the fault: it is in the document itself, and not in what a variable has."""
    return (
        problem.code in _SEEN_BY_A_SCHEMA
        and problem.file == source.name
        and problem.line > 0
        and "${" not in problem.source_line
        and not problem.path.startswith("profiles")
        and ".0 is not an integer" not in problem.message  # to a schema, 1.0 is an integer
    )


def _refused_by_schema(tree: Node, error: Any) -> Problem:
    deepest = max(leaves(error), key=lambda each: len(each.absolute_path))
    node, written, _ = locate(tree, tuple(deepest.absolute_path))
    message = "the published JSON schema refuses this, so editors mark it, but the host accepts it"
    return node.problem(written, _CODE, message, _HINT, severity="warning")


def _refused_by_types(problem: Problem) -> Problem:
    message = "the published JSON schema accepts this, so editors do not mark it, but the host refuses it"
    place = problem.file, problem.line, problem.column, problem.path
    return Problem(*place, _CODE, message, _HINT, "warning", problem.end_column, problem.source_line)
