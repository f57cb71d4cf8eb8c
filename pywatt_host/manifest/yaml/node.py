"""The tree of a manifest between its text and its types: plain values that know where they were written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pywatt_host.manifest.problems import KeyPath, Problem, Severity, display_path, printable, quote
from pywatt_host.manifest.values import Interpolated

INIT = "init"  # the name of the origin of the values from the orchestrator


class Mark(NamedTuple):
    """A place in a text. Line and column count from 1. `end` is the column after it; 0 if it ends in another line."""

    line: int = 0
    column: int = 0
    end: int = 0


@dataclass(frozen=True, slots=True)
class Origin:
    """What a value was read from: a file, an environment variable, `--set`, or code.

    `name` is the file as the user named it, the name of the variable, or `--set`. Only a file has lines.
    """

    name: str
    kind: Literal["file", "environment", "set", "code"] = "file"
    lines: tuple[str, ...] = ()
    profile: str = ""

    @property
    def override(self) -> bool:
        """Whether the value comes from an environment variable or from `--set`."""
        return self.kind in ("environment", "set")

    def label(self, mark: Mark) -> str:
        """The text that `config --origins` shows for a value from here."""
        if self.kind != "file":
            return self.name
        place = f"{self.name}:{mark.line}:{mark.column}"
        return f"profile {self.profile} ({place})" if self.profile else place


class Node:
    """One value and its place. `value` is a scalar, a list of nodes, or a mapping of nodes.

    `keys` has the marks of a mapping's keys. `text` is the source of an unquoted scalar. `template` is the text before
    interpolation, if interpolation gave the value. `unset` says that a variable in it was not set. `short` names the
    key that a section in its short form sets. `implied` marks a value that is not written but follows from its section.
    `left_out` marks a faulty value: it has been reported, and the typed document is made without it.
    """

    __slots__ = (
        "_kept",
        "implied",
        "keys",
        "left_out",
        "mark",
        "origin",
        "short",
        "template",
        "text",
        "unset",
        "value",
    )

    def __init__(
        self,
        value: Any,
        mark: Mark,
        origin: Origin,
        *,
        text: str | None = None,
        keys: dict[str, Mark] | None = None,
        template: str | None = None,
        unset: bool = False,
        short: str | None = None,
        implied: bool = False,
    ) -> None:
        self.value = value
        self.mark = mark
        self.origin = origin
        self.text = text
        self.keys = keys
        self.template = template
        self.unset = unset
        self.short = short
        self.implied = implied
        self.left_out = False
        self._kept: list[int] | None = None

    def shown(self) -> str:
        """The value as a message shows it. A value from the environment may be a secret, so the message names its
        source instead."""
        if self.template is not None:
            return f"the value of `{printable(self.template[:80])}`"
        if self.origin.kind == "environment" and isinstance(self.value, str):
            return "the value"
        return quote(self.value)

    @property
    def masked(self) -> bool:
        """Whether messages must not show the value."""
        return self.template is not None or self.origin.kind == "environment"

    def plain(self) -> Any:
        """The value without positions and without what is left out. Parts that are shared are copied."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items() if not node.left_out}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value if not node.left_out]
        return self.value

    def leave_out(self, part: str | int) -> None:
        """Leave out one of the values of this mapping or list."""
        self.value[part].left_out = True
        self._kept = None

    @property
    def kept(self) -> list[int]:
        """The positions of the entries of this list that are not left out."""
        if self._kept is None:
            self._kept = [number for number, item in enumerate(self.value) if not item.left_out]
        return self._kept

    def problem(
        self,
        path: KeyPath,
        code: str,
        message: str,
        hint: str = "",
        *,
        severity: Severity = "error",
        mark: Mark | None = None,
    ) -> Problem:
        """Make a problem with this node, or at another `mark` of the same text."""
        return problem_at(self.origin, mark or self.mark, path, code, message, hint, severity=severity)


def problem_at(
    origin: Origin,
    mark: Mark,
    path: KeyPath,
    code: str,
    message: str,
    hint: str = "",
    *,
    severity: Severity = "error",
) -> Problem:
    """Make a problem at a place of a text."""
    line, column, end = mark if origin.kind == "file" else Mark()
    source_line = origin.lines[line - 1] if 0 < line <= len(origin.lines) else ""
    shown_path = display_path(path)
    return Problem(
        origin.name, line, column, shown_path, code, printable(message), printable(hint), severity, end, source_line
    )


def from_data(value: Any, origin: Origin) -> Node:
    """Make a tree of plain data from code. Its nodes have no positions."""
    if isinstance(value, Mapping):
        return Node({str(key): from_data(item, origin) for key, item in value.items()}, Mark(), origin, keys={})
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return Node([from_data(item, origin) for item in value], Mark(), origin)
    return Node(value, Mark(), origin)


# YAML 1.2 core schema ---------------------------------------------------------------------------------------------

_CONSTANTS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
# Unlike in YAML 1.2, a leading zero makes a string: 0755 is a file mode or a post code, never the number 755.
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z")
_NUMBER_STARTS = frozenset("+-.0123456789")


def resolve(text: str) -> bool | int | float | str | None:
    """Convert an unquoted scalar. Raises ValueError with the reason for a number that JSON cannot represent."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    if _INT.match(text):
        if len(text) > 18:
            raise ValueError("is a number with more than 18 digits")
        return int(text, 0) if text.startswith("0") else int(text)
    if _FLOAT.match(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError("is a number that is too large")
        return number
    if _NOT_FINITE.match(text):
        raise ValueError("is not a finite number")
    return text


def overridden(node: Node) -> Node:
    """Make the scalar of an override a text that is converted to the type of its key. Other nodes stay as they are."""
    if node.origin.override and node.text:
        return Node(Interpolated(node.text), node.mark, node.origin, text=node.text)
    return node
