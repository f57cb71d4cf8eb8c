"""Regular expressions as pieces of a path template."""

from __future__ import annotations

import re
from functools import lru_cache

from pywatt_host.app.introspection.template import Parameter, Piece

_ATOM = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]*\}|[0-7]{1,3}|.)"
    r"|\[\^?\]?(?:\\.|[^\]\\])*\]|.",
    re.DOTALL,
)
_QUANTIFIER = re.compile(r"(?:[*+?]|\{[0-9]*(?:,[0-9]*)?\})[?+]?")
_STRUCTURE = frozenset("()*+?|{}")
_ZERO_WIDTH = frozenset(["^", "$", r"\A", r"\Z", r"\b", r"\B"])
_LOOKAROUND = re.compile(r"\(\?<?[=!]")
_SPECIAL = frozenset(r".^$*+?{}[]\|()")


@lru_cache(maxsize=1024)
def one_segment(pattern: str) -> bool:
    """Whether every match of `pattern` is certainly not empty and without a slash; False in doubt."""
    if _LOOKAROUND.search(pattern):
        return False
    try:
        if re.compile(pattern).fullmatch(""):
            return False
        return not any(_may_be_slash(atom) for atom in _ATOM.findall(pattern))
    except re.error:
        return False


def _may_be_slash(atom: str) -> bool:
    """Whether the atom may match a slash. Raises `re.error` for an atom that has no meaning alone, such as a reference
    to a group."""
    if atom in _STRUCTURE:
        return False
    return atom in _ZERO_WIDTH or re.fullmatch(atom, "/") is not None


def pieces_of_regex(pattern: str, *, whole: bool) -> list[list[Piece]]:
    """The pieces of `pattern`; two lists of pieces for a pattern that ends in an optional slash.

    With `whole` the pattern must match to the end of the path (with its `$`); otherwise more of the path follows.
    Reading stops at the first part that is neither literal text, a character class nor a plain group; from there on the
    path is one parameter. The whole path is one parameter where the pattern has no anchor in front, or has alternatives
    or flags at its top level.
    """
    position = next((len(anchor) for anchor in ("^", r"\A") if pattern.startswith(anchor)), 0)
    if not position or _has_alternatives(pattern):
        return [[Parameter("rest", rest=True)]]
    pieces: list[Piece] = []
    while position < len(pattern):
        if pattern[position:] in ("$", r"\Z"):
            return [pieces]
        if pattern[position:] in ("/?", "/?$", r"/?\Z", r"\/?", r"\/?$", r"\/?\Z") and whole and pattern[-1] != "?":
            return [pieces, [*pieces, "/"]]
        piece, position = _next(pattern, position, number=len(pieces))
        pieces.append(piece)
        if isinstance(piece, Parameter) and piece.rest:
            return [pieces]
    return [[*pieces, Parameter("rest", rest=True)] if whole else pieces]


def _next(pattern: str, position: int, *, number: int) -> tuple[Piece, int]:
    """The piece that starts at `position`, and where the next one starts."""
    if pattern[position] == "(":
        return _group(pattern, position, number)
    atom = _ATOM.match(pattern, position)
    assert atom is not None  # its last alternative is any character
    quantifier = _QUANTIFIER.match(pattern, atom.end())
    text = _literal(atom[0])
    if quantifier is None and text is not None:
        return text, atom.end()
    end = quantifier.end() if quantifier else atom.end()
    return Parameter(f"arg{number}", rest=not one_segment(pattern[position:end])), end


def _group(pattern: str, start: int, number: int) -> tuple[Piece, int]:
    depth, position = 0, start
    while position < len(pattern):
        atom = _ATOM.match(pattern, position)
        assert atom is not None
        depth += {"(": 1, ")": -1}.get(atom[0], 0)
        position = atom.end()
        if depth == 0:
            break
    body, name = pattern[start + 1 : position - 1], f"arg{number}"
    named = re.match(r"\?P<(\w+)>", body)
    if named:
        name, body = named[1], body[named.end() :]
    plain = not body.startswith("?") and not _QUANTIFIER.match(pattern, position)
    return Parameter(name, rest=not (plain and one_segment(body))), position


def _literal(atom: str) -> str | None:
    if len(atom) == 1:
        return None if atom in _SPECIAL else atom
    escaped = atom.removeprefix("\\")
    return escaped if len(escaped) == 1 and not escaped.isalnum() else None


def _has_alternatives(pattern: str) -> bool:
    depth = 0
    for atom in _ATOM.findall(pattern):
        depth += {"(": 1, ")": -1}.get(atom, 0)
        if atom == "|" and depth == 0:
            return True
    return False
