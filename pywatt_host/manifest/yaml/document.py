"""From the bytes of a manifest to a tree whose root is a mapping, or to problems that say where they are."""

from __future__ import annotations

import re

from pywatt_host.manifest.problems import Report
from pywatt_host.manifest.yaml.composer import compose, split_lines
from pywatt_host.manifest.yaml.node import Mark, Node, Origin, problem_at

MAX_BYTES = 1024 * 1024

# All characters that YAML does not allow, and the line breaks of YAML 1.1 alone, which editors do not count as lines.
_NOT_ALLOWED = re.compile("[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def read(
    data: bytes, origin_name: str, report: Report, *, smallest: str = "app: main:app", kind: str = "manifest"
) -> Node | None:
    """Read a whole file. Returns its tree, whose root is a mapping; None after a fault that leaves no tree.

    `smallest` is the smallest valid file of this `kind`. Messages show it.
    """
    blank = Origin(origin_name)
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data)} bytes, more than the limit of {MAX_BYTES}"
        report.add(problem_at(blank, Mark(1, 1), (), "too-large", message, "move data out of the file"))
        return None
    text = _decode(data, blank, report)
    if text is None:
        return None
    origin = Origin(origin_name, lines=split_lines(text))
    root = compose(text, origin, report)
    if root is None:
        return None
    if root.value is None and root.text == "":
        hint = f"the smallest {kind} is `{smallest}`"
        report.add(problem_at(origin, Mark(1, 1), (), "empty", "the file is empty", hint))
    elif not isinstance(root.value, dict):
        hint = f"write `{smallest}`"
        message = f"a {kind} must be a mapping, not {'a list' if isinstance(root.value, list) else 'a single value'}"
        # The text of the file is not shown: it may be another file, such as one with secrets.
        report.add(problem_at(blank, root.mark, (), "not-a-mapping", message, hint))
    else:
        return root
    return None


def _decode(data: bytes, origin: Origin, report: Report) -> str | None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        # If the file starts with a byte order mark, the codec counts from the byte after it.
        start = exc.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        before = data[:start].decode("utf-8-sig")
        utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        message = f"byte 0x{data[start]:02x} is not valid UTF-8"
        hint = "save the file as UTF-8" + ("; it is probably UTF-16 now" if utf16 else "")
        lines = split_lines(before)
        shown = Origin(origin.name, lines=split_lines(data.decode("utf-8", "replace")))
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
    report.add(problem_at(shown, mark, (), "control-character", message, "write it as an escape in double quotes"))
    return None
