"""The octets of a manifest to a tree whose root is a mapping, or to faults that say where."""

from __future__ import annotations

import re

from pywatt_host.manifest.problems import Report, quote
from pywatt_host.manifest.yaml.composer import compose, split_lines
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at

MAX_OCTETS = 1024 * 1024

# What YAML allows, without the line breaks that only YAML 1.1 knows: editors count lines without them.
_NOT_ALLOWED = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def read(octets: bytes, origin_name: str, report: Report, *, smallest: str = "app: main:app") -> Node | None:
    """The tree of a whole file, whose root is a mapping. None after a fault that leaves no tree.

    `smallest` is the smallest file of its kind, to show where there is nothing like it.
    """
    blank = Origin(origin_name)
    if len(octets) > MAX_OCTETS:
        message = f"the file has {len(octets)} octets, more than {MAX_OCTETS}"
        report.add(problem_at(blank, Mark(1, 1), (), "too-large", message, "split it, or move data out of it"))
        return None
    text = _decode(octets, blank, report)
    if text is None:
        return None
    origin = Origin(origin_name, lines=split_lines(text))
    root = compose(text, origin, report)
    if root is None:
        return None
    if root.value is None and root.text == "":
        hint = f"the smallest manifest is `{smallest}`"
        report.add(problem_at(origin, Mark(1, 1), (), "empty", "the file is empty", hint))
    elif not isinstance(root.value, dict):
        hint = f"write `{smallest}`"
        message = f"a manifest is a mapping, not {'a list' if isinstance(root.value, list) else quote(root.value)}"
        report.add(root.problem((), "not-a-mapping", message, hint))
    else:
        return root
    return None


def _decode(octets: bytes, origin: Origin, report: Report) -> str | None:
    try:
        text = octets.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # With a byte order mark in front, the codec counts from after it.
        start = exc.start + (3 if octets.startswith(b"\xef\xbb\xbf") else 0)
        before = octets[:start].decode("utf-8-sig")
        utf16 = octets[:2] in (b"\xff\xfe", b"\xfe\xff")
        message = f"octet 0x{octets[start]:02x} is not UTF-8"
        hint = "save the file as UTF-8" + (", it looks like UTF-16" if utf16 else "")
        lines = split_lines(before)
        shown = Origin(origin.name, lines=split_lines(octets.decode("utf-8", "replace")))
        mark = Mark(len(lines), len(lines[-1]) + 1)
        report.add(problem_at(shown, mark, (), "encoding", message, hint))
        return None
    bad = _NOT_ALLOWED.search(text)
    if bad is None:
        return text
    lines = split_lines(text[: bad.start()])
    shown = Origin(origin.name, lines=split_lines(text))
    mark = Mark(len(lines), len(lines[-1]) + 1)
    message = f"the character U+{ord(bad[0]):04X} is not allowed in YAML"
    report.add(
        problem_at(shown, mark, (), "control-character", message, "in double quotes it can be written as an escape")
    )
    return None
