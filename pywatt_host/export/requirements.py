"""What a requirements.txt needs from its folder: other files, or the whole folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FILE = "requirements.txt"
_MAX_BYTES = 1024 * 1024
_MAX_FILES = 100
_FILE_OPTION = re.compile(r"(?:-r|-c|--requirement|--constraint)(?:\s*=\s*|\s+|(?<=-[rc]))(\S.*)\Z")
_FOLDER_OPTION = re.compile(r"(?:-e|-f|--editable|--find-links)(?:\s*=\s*|\s+|(?<=-[ef]))(\S.*)\Z")
_COMMENT = re.compile(r"(^|\s)#.*")
_ARCHIVE = re.compile(r"\.(whl|zip|tar\.gz|tgz|tar\.bz2)\Z", re.IGNORECASE)


@dataclass(slots=True)
class Requirements:
    """The files to install from, by their paths in the folder, the first of which is requirements.txt; whether a
    requirement is a folder or a package file there, so that all of it is needed; what cannot be in an image, with its
    place; and the text of all files."""

    files: list[str] = field(default_factory=list)
    whole: bool = False
    missing: list[str] = field(default_factory=list)
    text: str = ""


def read_requirements(folder: Path) -> Requirements | None:
    """The requirements of a folder; None if it has no requirements.txt."""
    found = Requirements()
    if text_of(folder / FILE) is None:
        return None
    left = [FILE]
    while left and len(found.files) < _MAX_FILES:
        name = left.pop(0)
        text = text_of(folder / name)
        if text is None or name in found.files:
            continue
        found.files.append(name)
        found.text += text + "\n"
        for number, line in _lines(text):
            place = f"{name}:{number}"
            if (match := _FILE_OPTION.match(line)) is not None:
                left += _named(found, folder, os.path.join(os.path.dirname(name), match[1].strip("\"'")), place)
            elif (path := _local(line)) is not None:
                found.whole = True
                _check(found, path, place)
    found.whole = found.whole or any(re.search(r"\s", each) for each in found.files)
    return found


def text_of(path: Path) -> str | None:
    """The text of a small file; None if there is none."""
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace") if path.is_file() else None
    except (OSError, ValueError):
        return None


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines without comments, with those together that a backslash joins."""
    start, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        start = start or number
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        whole = _COMMENT.sub("", joined + line).strip()
        if whole:
            yield start, whole
        start, joined = 0, ""


def _named(found: Requirements, folder: Path, path: str, place: str) -> list[str]:
    """A further file of requirements, if it is one of the folder."""
    if "://" in path:
        return []
    path = os.path.normpath(path)
    if _check(found, path, place):
        if text_of(folder / path) is not None:
            return [path]
        found.missing.append(f"{place} names {path}, which does not exist")
    return []


def _check(found: Requirements, path: str, place: str) -> bool:
    if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
        found.missing.append(f"{place} names {path}, which is outside of the folder of the manifest")
        return False
    return True


def _local(line: str) -> str | None:
    """The folder or the package file that a line names; None where it names a package of an index or an address."""
    option = _FOLDER_OPTION.match(line)
    text = option[1] if option is not None else line
    if option is None and text.startswith("-"):
        return None
    text = text.partition(";")[0].strip().strip("\"'")
    _, at, url = text.partition("@")
    if at and url.strip().startswith("file:"):
        text = url.strip()
    if text.startswith("file:"):
        return text.removeprefix("file:").removeprefix("//")
    if "://" in text or at:
        return None
    text = re.sub(r"\[[^\]]*\]\Z", "", text)
    looks_local = text.startswith(".") or "/" in text or _ARCHIVE.search(text) is not None
    return text if looks_local or (option is not None and text) else None
