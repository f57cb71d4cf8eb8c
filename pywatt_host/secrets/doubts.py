"""Values of secrets that are probably not what was meant: empty ones, and such with an invisible beginning or end."""

from __future__ import annotations

from typing import NamedTuple

_BYTE_ORDER_MARK = "\ufeff"


class Doubt(NamedTuple):
    """What is strange about a value, as the rest of a sentence, with a code and what to do. The value is not in it."""

    code: str
    message: str
    hint: str


def doubt_about(text: str, *, required: bool = True) -> Doubt | None:
    """What is strange about the value of a secret; None for most. A text of several lines may end with a line break."""
    if not text:
        if not required:
            return None
        return Doubt("secret-empty", "is empty", "set it, or declare it with required: false")
    if text.startswith(_BYTE_ORDER_MARK):
        return Doubt("secret-whitespace", "begins with a byte order mark", "save it as UTF-8 without one")
    if text != (line := text.rstrip("\r\n")) and "\n" not in line:
        return Doubt("secret-whitespace", "ends with a line break", "set it without one, such as with printf %s")
    return None
