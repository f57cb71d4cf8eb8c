"""Reads the text of a configuration, whatever the file turns out to be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pywatt_host.imports.findings import Place, UnreadableError

MAX_BYTES = 1024 * 1024


def read_text(path: Path, name: str) -> str:
    """The text of a file. Raises UnreadableError for what is not a regular file, is larger than 1 MiB, is not UTF-8, or
    contains NUL."""
    place = Place(name)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnreadableError(place, "this is not a file")
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "the name is not valid"
        raise UnreadableError(
            place, f"the file cannot be read: {reason.lower()}", "give the path of the configuration"
        ) from None
    return decoded(data, name)


def decoded(data: bytes, name: str) -> str:
    """The bytes of a configuration as text. Raises UnreadableError like `read_text`."""
    if len(data) > MAX_BYTES:
        raise UnreadableError(Place(name), "the configuration has more than 1 MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(
            Place(name, line), "the file is not UTF-8 text", "give a configuration in UTF-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UnreadableError(Place(name, line), "the file contains a NUL character", "remove it")
    if not text.strip():
        raise UnreadableError(Place(name), "the file is empty")
    return text
