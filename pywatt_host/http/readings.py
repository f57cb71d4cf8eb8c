"""The other ways in which an application may read a path that the edge has read: what frameworks, servers and file
systems are known to do to paths, one by one and one after the other.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

LONGEST = 2048  # characters; of a longer path with anything odd in it nobody need ask how it may be read
_MOST = 24

# Segments in which nobody finds anything to change, no trailing slash. Upper case is looked at elsewhere.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-]+(?:\.[A-Za-z0-9_~!$&'()*+,=:@-]+)*)*\Z").match
_SLASHES = re.compile("/{2,}")
_CUT = re.compile("[?#\0]")
_AROUND = re.compile(r"(?<=/)[ \t]+|[ \t\r\n]+(?=/|\Z)")
_DOTS_BEHIND = re.compile(r"(?<=[^/.])\.+(?=/|\Z)|(?<=/)\.{3,}(?=/|\Z)")
_PARAMETERS = re.compile(";[^/]*")


def is_plain(path: str) -> bool:
    """Whether there is one reading only, upper and lower case apart."""
    return _PLAIN(path) is not None


def readings(path: str) -> list[str]:
    """Other readings of a path that has been percent-decoded once: each different from it, at most 24, the nearest
    first. None for nearly every path."""
    if is_plain(path):
        return []
    found: dict[str, None] = {path: None}
    waiting = [path]
    while waiting and len(found) <= _MOST:
        for other in _once(waiting.pop(0)):
            if other not in found and len(found) <= _MOST:
                found[other] = None
                waiting.append(other)
    return list(found)[1:]


def _once(path: str) -> Iterator[str]:
    for change in _CHANGES:
        changed = change(path)
        if changed != path:
            yield changed if changed.startswith("/") else f"/{changed}"


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


# What is most often done comes first.
_CHANGES: tuple[Callable[[str], str], ...] = (
    lambda path: path.rstrip("/") if len(path) > 1 else path,
    lambda path: unquote(path) if "%" in path else path,
    lambda path: _PARAMETERS.sub("", path) if ";" in path else path,
    _without_dots,
    lambda path: _SLASHES.sub("/", path) if "//" in path else path,
    lambda path: path.replace("\\", "/"),
    lambda path: _CUT.split(path, 1)[0],
    lambda path: _AROUND.sub("", path),
    lambda path: _DOTS_BEHIND.sub("", path),
    lambda path: path if path.isascii() else unicodedata.normalize("NFKC", path),
)
