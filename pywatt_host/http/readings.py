"""Other ways in which an application may read a path: the changes that frameworks, servers and file systems are known
to make to paths, alone and in combination.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from urllib.parse import unquote

LONGEST = 2048  # characters; a longer path with anything unusual in it is refused without looking at its readings
_MOST_READINGS = 24

# Segments that nothing changes, without a trailing slash. Upper and lower case are handled elsewhere.
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-]+(?:\.[A-Za-z0-9_~!$&'()*+,=:@-]+)*)*\Z").match
_SLASHES = re.compile("/{2,}")
_CUT = re.compile("[?#\0]")
_AROUND = re.compile(r"(?<=/)[ \t]+|[ \t\r\n]+(?=/|\Z)")
_DOTS_BEHIND = re.compile(r"(?<=[^/.])\.+(?=/|\Z)|(?<=/)\.{3,}(?=/|\Z)")
_PARAMETERS = re.compile(";[^/]*")


def is_plain(path: str) -> bool:
    """Whether the path has one reading only, except for upper and lower case."""
    return _PLAIN(path) is not None


def readings(path: str) -> list[str]:
    """Other readings of a path that has been percent-decoded once: at most 24 different ones, those with the fewest
    changes first. The list is empty for nearly every path."""
    if is_plain(path):
        return []
    found: dict[str, None] = {path: None}
    waiting = [path]
    while waiting and len(found) <= _MOST_READINGS:
        for other in _once(waiting.pop(0)):
            if other not in found and len(found) <= _MOST_READINGS:
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


# The most common changes come first.
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
