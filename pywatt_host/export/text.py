"""YAML with comments: a key that begins with `#` is one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from pywatt_host.manifest.problems import printable

_COMMENT = re.compile(r"^( *)'(# (?:[^']|'')*)': null$", re.MULTILINE)
_WIDE = 100_000


class _Dumper(yaml.SafeDumper):
    """No anchors; items of lists further in than their key."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def document(data: Any) -> str:
    """The data as YAML. In mappings, `"# why": None` is the comment `# why`; it may not be the first key of an item of
    a list."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDE)
    return _COMMENT.sub(lambda match: match[1] + match[2].replace("''", "'"), text)


def comment(lines: Iterable[str]) -> str:
    """Lines as comments, for the head of a file. The same in YAML and in a unit of systemd."""
    return "".join(f"# {printable(line)}".rstrip() + "\n" for line in lines)


def head(name: str, command: str, notes: Iterable[str]) -> str:
    """What a file is, how it was made, and what is to be known of it."""
    lines = [f"{name}: made from its manifest by", f"  {command}", "Make it again when the manifest changes."]
    notes = list(notes)
    if notes:
        lines += ["", "To know:", *(f"- {note}" for note in notes)]
    return comment(lines)
