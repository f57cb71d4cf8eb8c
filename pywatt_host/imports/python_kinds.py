"""The kinds of values in a Python configuration file, how texts are put together, and how large a value may be."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from string import Formatter
from typing import Any

from pywatt_host.imports.text import Template

_PLACES = re.compile(r"(%[sd%])")
_MAX_LENGTH = 100_000  # characters or items of a value
_MAX_NUMBER = 10**18


class NotComputableError(Exception):
    """An expression that cannot be computed. The text is the reason."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that cannot be computed: its line, and why. `code`: it is a function or a class. `returns` is the
    expression that a function returns, if it does nothing else."""

    line: int
    reason: str
    code: bool = False
    returns: ast.expr | None = None


class Cores(int):
    """A number that was computed out of the number of cores of this machine."""


class CoresText(str):
    """The text of a number that was computed out of the number of cores of this machine."""


class Decided(str):
    """A text that was computed out of what variables of the environment are now."""


def is_number(value: Any) -> bool:
    """Whether a value is a number or a bool."""
    return isinstance(value, int | float)


def filled(text: str, values: tuple[Any, ...]) -> Any:
    """What `text % values` is. Only `%s` and `%d` are read."""
    left = list(values)
    pieces: list[Any] = []
    for piece in _PLACES.split(text):
        if piece == "%%":
            pieces.append("%")
        elif _PLACES.fullmatch(piece):
            pieces.append(_shown(left.pop(0)))
        elif "%" in piece:
            raise NotComputableError("the file formats a value")
        else:
            pieces.append(piece)
    return joined(pieces)


def formatted(text: str, values: list[Any], keywords: dict[str, Any]) -> Any:
    """What `text.format(...)` is. Only names and numbers of values are read."""
    pieces: list[Any] = []
    for number, (literal, name, spec, conversion) in enumerate(Formatter().parse(text)):
        pieces.append(literal)
        if name is None:
            continue
        if spec or conversion or (not name.isalnum() and name != "" and not name.isidentifier()):
            raise NotComputableError("the file formats a value")
        pieces.append(_shown(keywords[name] if name.isidentifier() else values[int(name or number)]))
    return joined(pieces)


def joined(pieces: list[Any]) -> Any:
    """The pieces as one text. Raises NotComputableError if it is too long."""
    if sum(len(piece) for piece in pieces if isinstance(piece, str)) > _MAX_LENGTH:
        raise NotComputableError("the value is too large")
    return Template.joined(*pieces)


def _shown(value: Any) -> Any:
    return value if isinstance(value, Template) else str(value)


def check_length(one: Any, other: Any) -> None:
    """Raise NotComputableError if the product of two lengths or numbers is too large."""
    sizes = [
        len(each) if isinstance(each, str | list | tuple) else abs(each) for each in (one, other) if each is not None
    ]
    if len(sizes) == 2 and sizes[0] * sizes[1] > _MAX_LENGTH:
        raise NotComputableError("the value is too large")


def bounded(value: Any) -> Any:
    """The value. Raises NotComputableError if it is too large."""
    if isinstance(value, str | list | tuple | dict) and len(value) > _MAX_LENGTH:
        raise NotComputableError("the value is too large")
    if isinstance(value, int | float) and abs(value) > _MAX_NUMBER:
        raise NotComputableError("the number is too large")
    return value
