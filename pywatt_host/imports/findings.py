"""What an import found that the manifest does not say, or says in another way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pywatt_host.exceptions import HostError
from pywatt_host.manifest.problems import printable

# exposed: somebody may do what the old configuration refused. lost: the manifest has nothing for it. differs: the
# manifest has it, and it works in another way. secret: a value that was left out because it looks like a secret. todo:
# what is left to do before the manifest works.
Kind: TypeAlias = Literal["exposed", "lost", "differs", "secret", "todo"]

_FAULT = "import-fault"
_TITLES: dict[Kind, str] = {
    "exposed": "open where it was closed",
    "lost": "not taken over",
    "differs": "different",
    "secret": "secrets left out",
    "todo": "to do",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: a file (or what stands for one, such as `command line`), and a line, or 0."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.line}" if self.line else self.file)


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting that needs the reader's attention. It never has the value of a secret."""

    kind: Kind
    place: Place
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return printable(f"{self.place}: {self.key}: {self.message}{hint} [{self.code}]")

    @property
    def code(self) -> str:
        """The stable code, which docs/errors.md explains."""
        return f"import-{self.kind}"

    def data(self) -> dict[str, Any]:
        """The finding for programs, in the form of other problems."""
        return {
            "file": self.place.file,
            "line": self.place.line or None,
            "column": None,
            "path": self.key,
            "code": self.code,
            "severity": "warning",
            "message": self.message,
            "hint": self.hint,
        }


class UnreadableError(HostError):
    """Raised when a configuration cannot be imported at all: it cannot be read, has a fault, or names no application.

    `place` says where, `message` what is wrong, and `hint` (may be empty) what to do.
    """

    exit_code = 2

    def data(self) -> dict[str, Any]:
        """The error for programs, in the form of other problems."""
        found = Finding("lost", self.place, "", self.message, self.hint).data()
        return found | {"code": _FAULT, "severity": "error"}

    def __init__(self, place: Place, message: str, hint: str = "") -> None:
        self.place = place
        self.message = message
        self.hint = hint
        super().__init__(printable(f"{place}: {message}" + (f" ({hint})" if hint else "") + f" [{_FAULT}]"))


def report(findings: tuple[Finding, ...]) -> str:
    """The findings as text, by kind, and their numbers in the last line."""
    lines: list[str] = []
    counts: list[str] = []
    for kind, title in _TITLES.items():
        some = [finding for finding in findings if finding.kind == kind]
        if some:
            lines += [f"{title}:", *(f"  {finding}" for finding in some)]
            counts.append(f"{len(some)} {title}")
    lines.append(", ".join(counts) if counts else "everything was taken over")
    return "\n".join(lines) + "\n"
