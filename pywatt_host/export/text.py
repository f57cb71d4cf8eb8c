"""YAML with comments: a key that begins with `#` becomes a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from pywatt_host.manifest.problems import printable

_COMMENT = re.compile(r"^( *)'(# (?:[^']|'')*)': null$", re.MULTILINE)
_LINE_WIDTH = 100_000  # characters: lines are never broken


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, and indents the items of a list below its key."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def document(data: Any) -> str:
    """The data as YAML. In a mapping, `"# why": None` becomes the comment `# why`. It must not be the first key of an
    item of a list."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)
    return _COMMENT.sub(lambda match: match[1] + match[2].replace("''", "'"), text)


def comment(lines: Iterable[str]) -> str:
    """Comment lines, for YAML and for systemd units."""
    return "".join(f"# {printable(line)}".rstrip() + "\n" for line in lines)


def head(name: str, command: str, notes: Iterable[str]) -> str:
    """The comment at the top of a file: what it is, the command that generates it, and the notes."""
    lines = [f"{name}: generated from its manifest by", f"  {command}", "Generate it again when the manifest changes."]
    notes = list(notes)
    if notes:
        lines += ["", "Notes:", *(f"- {note}" for note in notes)]
    return comment(lines)
