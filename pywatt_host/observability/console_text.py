"""Texts of others for a terminal. A file of its own: commands that print such texts need no JSON library."""

from __future__ import annotations


def console_text(value: object, keep: str = "") -> str:
    """The text of a value for a terminal: line ends, control characters and others that cannot be shown are escaped,
    apart from those in `keep`."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text
    )
