"""Problems as SARIF 2.1.0 (OASIS), which code scanning of GitHub, GitLab and others reads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pywatt_host import __version__
from pywatt_host.cli.explain import Explanation, explanations
from pywatt_host.manifest.problems import Problem

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_ROOT = "%SRCROOT%"  # the name by which GitHub knows the root of the checkout


def as_sarif(problems: Sequence[Problem], *, root: Path, fallback: str) -> dict[str, Any]:
    """One SARIF log with one run. Files below the folder `root` are relative to it.

    GitHub refuses a result without a place. `fallback` is therefore the file of problems that are in no file, such as
    those of `--set`.
    """
    known = explanations()
    codes = list(dict.fromkeys(problem.code for problem in problems))
    rules = [_rule(code, known.get(code)) for code in codes]
    base = root.absolute()
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "pywatt-host", "version": __version__, "rules": rules}},
                "originalUriBaseIds": {_ROOT: {"uri": _file_uri(base) + "/"}},
                "columnKind": "unicodeCodePoints",
                "results": [_result(problem, codes.index(problem.code), base, fallback) for problem in problems],
            }
        ],
    }


def _rule(code: str, known: Explanation | None) -> dict[str, Any]:
    if known is None:
        return {"id": code}
    warning = known.meaning.startswith("A warning")
    text = [known.meaning, *([f"Example:\n\n{known.example}"] if known.example else []), f"What to do: {known.cure}"]
    marked = [
        known.meaning,
        *([f"```\n{known.example}\n```"] if known.example else []),
        f"**What to do:** {known.cure}",
    ]
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in code.split("-")),
        "shortDescription": {"text": known.summary},
        "fullDescription": {"text": known.meaning},
        "help": {"text": "\n\n".join(text), "markdown": "\n\n".join(marked)},
        "defaultConfiguration": {"level": "warning" if warning else "error"},
        "properties": {"tags": ["configuration"]},
    }


def _result(problem: Problem, rule: int, base: Path, fallback: str) -> dict[str, Any]:
    in_file = problem.line > 0
    place: dict[str, Any] = {"artifactLocation": _artifact(problem.file if in_file else fallback, base)}
    start = problem.column or 1
    # GitHub wants both ends. A value that goes on in another line is marked up to the end of its first line.
    end = problem.end_column if problem.end_column > start else max(start, len(problem.source_line)) + 1
    line = problem.line or 1
    place["region"] = {"startLine": line, "startColumn": start, "endLine": line, "endColumn": end}
    location: dict[str, Any] = {"physicalLocation": place}
    if problem.path:
        location["logicalLocations"] = [{"fullyQualifiedName": problem.path, "kind": "property"}]
    text = problem.what.removeprefix("warning: ") + (f"\n\n{problem.detail}" if problem.detail else "")
    return {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": problem.severity,
        "message": {"text": text if in_file else f"{problem.where}{text}"},
        "locations": [location],
    }


def _artifact(name: str, base: Path) -> dict[str, str]:
    """The place of a file: relative to the root where it is below it."""
    path = Path(os.path.normpath(base / name))
    if path.is_relative_to(base):
        return {"uri": quote(path.relative_to(base).as_posix(), errors="replace"), "uriBaseId": _ROOT}
    return {"uri": _file_uri(path)}


def _file_uri(path: Path) -> str:
    return "file://" + quote(path.as_posix(), errors="replace")
