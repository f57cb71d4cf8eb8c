"""What is wrong with a manifest, and how that is shown: as text with a caret, as JSON, as GitHub annotations."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]
KeyPath: TypeAlias = tuple[str | int, ...]  # the keys and list positions that lead to a value

_SHOWN = 60  # characters of a value that a message shows
_PATH = 200  # characters of a path
_WINDOW = 110  # characters of a source line that are shown around the caret


def printable(text: str) -> str:
    """The text with unprintable characters escaped, so that a file cannot drive a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def quote(value: object) -> str:
    """A value as a message shows it: texts in double quotes, everything as YAML spells it, cut where it is long."""
    if isinstance(value, str):
        return f'"{printable(value[:_SHOWN])}{"..." if len(value) > _SHOWN else ""}"'
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def near_miss(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant, if any."""
    plain = {_folded(candidate): candidate for candidate in candidates}
    found = get_close_matches(_folded(word[:_SHOWN]), plain, n=1, cutoff=0.66)
    return plain[found[0]] if found else None


def _folded(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def display_path(path: Sequence[str | int]) -> str:
    """`endpoints[1].methods`; a key that is not a plain word stands in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif len(part) <= _SHOWN and part.replace("-", "_").isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{quote(part)}]"
    return text if len(text) <= _PATH else text[: _PATH // 2] + "..." + text[-_PATH // 2 :]


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault or warning, and where it stands.

    `line` and `column` count from 1, columns in characters; both are 0 where the problem has no place in a file:
    `file` is then `--set` or the name of an environment variable. `code` is stable and documented in docs/errors.md.
    """

    file: str
    line: int
    column: int
    path: str
    code: str
    message: str
    hint: str = ""
    severity: Severity = "error"
    end_column: int = 0
    source_line: str = ""

    def __str__(self) -> str:
        return f"{self.where}{self.what}"

    @property
    def where(self) -> str:
        """`pywatt.yaml:14:12: `, or `PYWATT__SERVER__LISTEN: ` and `--set ` where there is no line."""
        if self.line:
            return f"{printable(self.file)}:{self.line}:{self.column}: "
        return f"{self.file} " if self.file == "--set" else f"{printable(self.file)}: "

    @property
    def what(self) -> str:
        """Everything but the place."""
        label = "warning: " if self.severity == "warning" else ""
        # The name of a variable says the path already.
        repeated = not self.line and self.file.lower() == "pywatt__" + self.path.lower().replace(".", "__")
        path = f"{self.path}: " if self.path and not repeated else ""
        return f"{label}{path}{self.message}" + (f" ({self.hint})" if self.hint else "")


class Report:
    """The problems found so far in one manifest.

    Errors beyond `limit` are only counted: the reader of a file with that many is not helped by more, and a hostile
    file cannot make the search for near misses run for minutes.
    """

    def __init__(self, limit: int = 200) -> None:
        self.problems: list[Problem] = []
        self.left_out = 0
        self.secrets: frozenset[str] = frozenset()  # written out in the manifest; no line that is shown has them
        self._limit = limit

    @property
    def full(self) -> bool:
        """Whether a further problem would only be counted."""
        return len(self.problems) >= self._limit

    def add(self, problem: Problem) -> None:
        """Keep the problem, once."""
        if self.full:
            self.left_out += 1
        elif problem not in self.problems:
            self.problems.append(problem)

    def errors(self) -> list[Problem]:
        """Every error and warning, if there is an error: in the order of the file, with the count of those left out."""
        if all(problem.severity == "warning" for problem in self.problems):
            return []
        found = self.ordered()
        if self.left_out:
            last = found[-1]
            found.append(
                Problem(
                    last.file, last.line, last.column, "", "too-many", f"{self.left_out} more problems are not shown"
                )
            )
        return found

    def ordered(self) -> list[Problem]:
        """All problems in the order of the file, overrides after it."""
        shown = [_without(problem, self.secrets) for problem in self.problems]
        return sorted(shown, key=lambda problem: (not problem.line, problem.line, problem.column))


_LONG_ENOUGH = 8  # characters of a secret that is looked for in messages, which have words as well


def _without(problem: Problem, secrets: frozenset[str]) -> Problem:
    """With asterisks in the place of secrets, as many as they have characters, so that the caret stays below."""
    line, message = problem.source_line, problem.message
    for secret in sorted(secrets, key=len, reverse=True):
        line = line.replace(secret, "*" * len(secret))
        message = message.replace(secret, "***") if len(secret) >= _LONG_ENOUGH else message
    if line == problem.source_line and message == problem.message:
        return problem
    return replace(problem, source_line=line, message=message)


def render_text(problems: Sequence[Problem], *, color: bool = False) -> str:
    """For people: each problem, its line with a caret, and the count at the end."""
    lines: list[str] = []
    for problem in problems:
        if color:
            tint = "\x1b[31m" if problem.severity == "error" else "\x1b[33m"
            lines.append(f"\x1b[1m{problem.where}\x1b[0m{tint}{problem.what}\x1b[0m")
        else:
            lines.append(str(problem))
        if problem.line and problem.source_line.strip():
            lines += _caret(problem)
    return "\n".join([*lines, count(problems)]) + "\n"


def count(problems: Sequence[Problem]) -> str:
    """`2 errors, 1 warning`."""
    errors = sum(problem.severity == "error" for problem in problems)
    parts = [(errors, "error"), (len(problems) - errors, "warning")]
    return ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in parts if n) or "no problems"


def _caret(problem: Problem) -> list[str]:
    start = max(0, problem.column - 1 - _WINDOW // 2) if problem.column > _WINDOW - 10 else 0
    # One character for one, so that the caret stays below its place.
    shown = "".join(char if char.isprintable() else " " for char in problem.source_line[start : start + _WINDOW])
    before = shown[: problem.column - 1 - start]
    indent = " " * sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in before)
    width = max(1, min(problem.end_column or problem.column + 1, start + len(shown) + 1) - problem.column)
    return ["    " + shown.rstrip(), "    " + indent + "^" + "~" * (width - 1)]


def as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The stable JSON form. `line` and `column` are null where the problem is not in a file."""
    return [
        {
            "file": problem.file,
            "line": problem.line or None,
            "column": problem.column or None,
            "path": problem.path,
            "code": problem.code,
            "severity": problem.severity,
            "message": problem.message,
            "hint": problem.hint,
        }
        for problem in problems
    ]


def render_github(problems: Sequence[Problem]) -> str:
    """Workflow commands of GitHub Actions, which show the problems beside the lines of a pull request."""
    lines = []
    for problem in problems:
        place = f"file={_property(problem.file)},line={problem.line},col={problem.column}," if problem.line else ""
        text = problem.what.removeprefix("warning: ") if problem.line else str(problem)
        lines.append(f"::{problem.severity} {place}title={_property(problem.code)}::{_data(text)}")
    return "".join(line + "\n" for line in lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
