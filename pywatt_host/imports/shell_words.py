"""Words of a command line, and what a script assigns to variables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pywatt_host.imports.text import Template, Text

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command line, and its line. `computed` is what the shell would run to get it: `$(nproc)`.
    `quoted` says whether quotes keep the spaces in it together."""

    text: Text
    line: int
    computed: str = ""
    quoted: bool = False

    @property
    def plain(self) -> str:
        """The word as it is written; empty for one with variables."""
        return self.text if isinstance(self.text, str) and not self.computed else ""


def is_assignment(word: Word) -> bool:
    """Whether a word is `NAME=value`."""
    return _ASSIGNMENT.match(_first_text(word)) is not None


def _first_text(word: Word) -> str:
    if isinstance(word.text, str):
        return word.text
    first = word.text.parts[0]
    return first if isinstance(first, str) else ""


def assigned(word: Word) -> tuple[str, Word]:
    """The name and the value of `NAME=value`."""
    name, _, start = _first_text(word).partition("=")
    rest = word.text.parts[1:] if isinstance(word.text, Template) else ()
    return name, Word(Template.joined(start, *(Template((part,)) for part in rest)), word.line, word.computed)
