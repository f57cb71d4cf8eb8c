"""Path templates of the manifest (`/users/{id}`, `/files/{rest:path}`), made from the pieces of a framework's pattern.

A template may match more than the pattern, never less: a part that a template cannot express becomes a parameter, and a
part that may contain a slash takes the rest of the path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Parameter:
    """A variable piece of a path. With `rest` its value may be empty or contain a slash, so that it takes the rest of
    the path."""

    name: str
    rest: bool = False


Piece: TypeAlias = str | Parameter

_NOT_LITERAL = re.compile(r"[\s?#<>\\{}]")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


def template(pieces: Iterable[Piece]) -> str:
    """The narrowest template that matches every path that the pieces match, one after the other.

    A segment with text and parameters, or with text that a manifest may not contain, becomes a parameter.
    """
    parts: list[str] = []
    names: set[str] = set()
    segments = _segments(pieces)
    for number, segment in enumerate(segments):
        parameters = [piece for piece in segment if isinstance(piece, Parameter)]
        text = "".join(piece for piece in segment if isinstance(piece, str))
        name = _new_name(parameters[0].name if parameters else "segment", names)
        hollow = not segment and number < len(segments) - 1
        if hollow or any(parameter.rest for parameter in parameters):
            parts.append(f"{{{name}:path}}")
            break
        if parameters or text in (".", "..") or _NOT_LITERAL.search(text):
            parts.append(f"{{{name}}}")
            names.add(name)
        else:
            parts.append(text)
    return "/" + "/".join(parts)


def join(prefix: str, path: str) -> str:
    """The template `path` below the template `prefix`, which is empty or does not end with a slash."""
    return template([*_pieces(prefix), *_pieces(path)])


def below(prefix: str) -> str:
    """The template of everything below `prefix`."""
    return join(prefix, "/{path:path}")


def _segments(pieces: Iterable[Piece]) -> list[list[Piece]]:
    segments: list[list[Piece]] = [[]]
    for piece in pieces:
        if isinstance(piece, Parameter):
            segments[-1].append(piece)
            if piece.rest:
                break
        else:
            first, *others = piece.split("/")
            segments[-1].extend([first] if first else [])
            segments.extend([other] if other else [] for other in others)
    return segments[1:] if len(segments) > 1 and not segments[0] else segments


def _pieces(text: str) -> list[Piece]:
    pieces: list[Piece] = []
    end = 0
    for match in _PARAMETER.finditer(text):
        pieces += [text[end : match.start()], Parameter(match[1], rest=match[2] is not None)]
        end = match.end()
    return [*pieces, text[end:]]


def _new_name(name: str, taken: set[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    if not name or name[0].isdigit():
        name = f"_{name}"
    number, unique = 2, name
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique
