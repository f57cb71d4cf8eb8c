"""Problems of a manifest, and how they are shown: as text with a caret, as JSON, as GitHub annotations."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning"]
_WARNING = "warning: "  # before the text of a warning
KeyPath: TypeAlias = tuple[str | int, ...]  # the keys and list positions that lead to a value

_MAX_VALUE_CHARACTERS = 60  # of a value in a message
_MAX_PATH_CHARACTERS = 200  # of a path in a message
_LINE_CHARACTERS = 110  # of a source line around the caret


def printable(text: str) -> str:
    """Escape unprintable characters, so that the text of a file cannot control the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def quote(value: object) -> str:
    """Show a value in a message: strings in double quotes, other scalars as in YAML, long values shortened."""
    if isinstance(value, str):
        return f'"{printable(value[:_MAX_VALUE_CHARACTERS])}{"..." if len(value) > _MAX_VALUE_CHARACTERS else ""}"'
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else text[:_MAX_VALUE_CHARACTERS] + "..."


def near_miss(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `word` was probably meant to be; None if no candidate is similar."""
    plain = {_folded(candidate): candidate for candidate in candidates}
    wanted = _folded(word[:_MAX_VALUE_CHARACTERS])
    found = get_close_matches(wanted, plain, n=3, cutoff=0.66)
    # The same letters in another order are more likely than another word that is as similar: `atuh` is `auth`.
    swapped = [each for each in found if sorted(each) == sorted(wanted)]
    return plain[(swapped or found)[0]] if found else None


def cut_list(names: Collection[str], most: int = 12) -> str:
    """Names in a message; where there are too many, it says how many more there are."""
    listed = list(names)
    more = len(listed) - most
    return ", ".join(listed) if more <= 1 else f"{', '.join(listed[:most])} and {more} more"


def _folded(word: str) -> str:
    return word.lower().replace("-", "").replace("_", "")


def display_path(path: Sequence[str | int]) -> str:
    """Show a path as `endpoints[1].methods`. A key that is not a plain word is put in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif len(part) <= _MAX_VALUE_CHARACTERS and part.replace("-", "_").isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{quote(part)}]"
    return (
        text
        if len(text) <= _MAX_PATH_CHARACTERS
        else text[: _MAX_PATH_CHARACTERS // 2] + "..." + text[-_MAX_PATH_CHARACTERS // 2 :]
    )


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault or warning, and its place.

    `line` and `column` count from 1, columns in characters. Both are 0 if the problem has no place in a file; `file` is
    then `--set` or the name of an environment variable. `code` is stable and documented in docs/errors.md. `detail` is
    text of several lines that belongs to the problem, such as the traceback of what an application raised.
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
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.where}{self.what} [{self.code}]"

    @property
    def logged(self) -> str:
        """The problem as the message of a log record, which has a level of its own."""
        return f"{self.where}{self.what.removeprefix(_WARNING)} [{self.code}]"

    @property
    def where(self) -> str:
        """The start of the line: `pywatt.yaml:14:12: `; without a line, `PYWATT__SERVER__LISTEN: ` or `--set `."""
        if self.line:
            return f"{printable(self.file)}:{self.line}:{self.column}: "
        return f"{self.file} " if self.file == "--set" else f"{printable(self.file)}: "

    @property
    def what(self) -> str:
        """The problem without its place."""
        label = _WARNING if self.severity == "warning" else ""
        # The name of the variable contains the path already.
        repeated = not self.line and self.file.lower() == "pywatt__" + self.path.lower().replace(".", "__")
        path = f"{self.path}: " if self.path and not repeated else ""
        return f"{label}{path}{self.message}" + (f" ({self.hint})" if self.hint else "")


class Report:
    """Collects the problems of one manifest.

    Problems above `limit` are only counted. Nobody reads that many, and a hostile file cannot make the search for
    similar names run for minutes.
    """

    def __init__(self, limit: int = 200) -> None:
        self.problems: list[Problem] = []
        self.left_out = 0
        self.secrets: frozenset[str] = (
            frozenset()
        )  # in plain text in the manifest; they are masked in every source line
        self._limit = limit

    @property
    def full(self) -> bool:
        """Whether a further problem is only counted."""
        return len(self.problems) >= self._limit

    def add(self, problem: Problem) -> None:
        """Add a problem, unless it is there already."""
        if self.full:
            self.left_out += 1
        elif problem not in self.problems:
            self.problems.append(problem)

    @property
    def faulty(self) -> bool:
        """Whether there is an error, and not only warnings."""
        return any(problem.severity == "error" for problem in self.problems)

    def errors(self) -> list[Problem]:
        """All problems, as `ordered` gives them with `cut`. Empty if all are warnings."""
        return self.ordered(cut=True) if self.faulty else []

    def ordered(self, *, cut: bool = False) -> list[Problem]:
        """All problems in the order of the file. Problems of overrides come last. With `cut`, a last one says how many
        are not shown."""
        shown = [_masked(problem, self.secrets) for problem in self.problems]
        found = sorted(shown, key=lambda problem: (not problem.line, problem.line, problem.column))
        if cut and self.left_out and found:
            last = found[-1]
            message = f"{self.left_out} more problems are not shown"
            found.append(Problem(last.file, last.line, last.column, "", "too-many", message))
        return found


_MIN_SECRET_CHARACTERS = 8  # a shorter secret is not masked in messages, because it may match other words


def _masked(problem: Problem, secrets: frozenset[str]) -> Problem:
    """Mask secrets. In the source line, a secret keeps its length, so that the caret stays in place."""
    line, message = problem.source_line, problem.message
    for secret in sorted(secrets, key=len, reverse=True):
        line = line.replace(secret, "*" * len(secret))
        message = message.replace(secret, "***") if len(secret) >= _MIN_SECRET_CHARACTERS else message
    if line == problem.source_line and message == problem.message:
        return problem
    return replace(problem, source_line=line, message=message)


def render_text(problems: Sequence[Problem], *, color: bool = False) -> str:
    """Show problems to people: each problem, its line with a caret, and the count at the end."""
    lines: list[str] = []
    for problem in problems:
        if color:
            tint = "\x1b[31m" if problem.severity == "error" else "\x1b[33m"
            lines.append(f"\x1b[1m{problem.where}\x1b[0m{tint}{problem.what}\x1b[0m \x1b[2m[{problem.code}]\x1b[0m")
        else:
            lines.append(str(problem))
        if problem.line and problem.source_line.strip():
            lines += _caret(problem)
        lines += [f"    {printable(line.expandtabs())}".rstrip() for line in problem.detail.splitlines()]
    return "\n".join([*lines, count(problems)]) + "\n"


def count(problems: Sequence[Problem]) -> str:
    """`2 errors, 1 warning`."""
    errors = sum(problem.severity == "error" for problem in problems)
    parts = [(errors, "error"), (len(problems) - errors, "warning")]
    return ", ".join(f"{n} {noun}{'' if n == 1 else 's'}" for n, noun in parts if n) or "no problems"


def _caret(problem: Problem) -> list[str]:
    start = max(0, problem.column - 1 - _LINE_CHARACTERS // 2) if problem.column > _LINE_CHARACTERS - 10 else 0
    # Each character is replaced by one character, so that the caret stays in place.
    shown = "".join(
        char if char.isprintable() else " " for char in problem.source_line[start : start + _LINE_CHARACTERS]
    )
    before = shown[: problem.column - 1 - start]
    indent = " " * sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in before)
    width = max(1, min(problem.end_column or problem.column + 1, start + len(shown) + 1) - problem.column)
    return ["    " + shown.rstrip(), "    " + indent + "^" + "~" * (width - 1)]


def as_json(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """The stable JSON form. `line` and `column` are null if the problem is not in a file; `detail` is there only where
    there is one."""
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
            **({"detail": problem.detail} if problem.detail else {}),
        }
        for problem in problems
    ]


def render_github(problems: Sequence[Problem]) -> str:
    """Workflow commands for GitHub Actions, which shows the problems next to the lines of a pull request."""
    lines = []
    for problem in problems:
        place = f"file={_property(problem.file)},line={problem.line},col={problem.column}," if problem.line else ""
        text = problem.what.removeprefix(_WARNING) if problem.line else problem.logged
        text += f"\n{problem.detail}" if problem.detail else ""
        lines.append(f"::{problem.severity} {place}title={_property(problem.code)}::{_data(text)}")
    return "".join(line + "\n" for line in lines)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
