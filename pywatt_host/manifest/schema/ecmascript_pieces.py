"""The parts of a translated pattern, with what limits the work of running them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

_MANY = 10  # a repetition of more than this counts as one without a bound
_MANY_WAYS = 1e12  # more than any limit


class Piece(NamedTuple):
    """A part of a pattern in the syntax of both engines, and what limits the work of running it.

    `size` is the number of atoms, each as often as it is repeated at most. An engine with backtracking tries at most
    `ways` times the length of the text to the power of `degree` ways to match the part.
    """

    rust: str
    python: str
    size: int = 1
    ways: float = 1
    degree: int = 0


class Repetition(NamedTuple):
    """A quantifier as it is written. `most` is None without a bound."""

    text: str
    least: int = 1
    most: int | None = 1

    def of(self, piece: Piece) -> tuple[Piece, bool]:
        """The repeated part, and whether an engine with backtracking could take very long for it."""
        rust, python = piece.rust + self.text, piece.python + self.text
        size = piece.size * max(self.most or 1, self.least, 1)
        choice = piece.ways > 1 or piece.degree > 0
        if self.most is None or self.most > _MANY:
            degree = 0 if self.most == self.least else 1
            return Piece(rust, python, size, 1, degree), choice
        ways = min((self.most - self.least + 1) * piece.ways**self.most, _MANY_WAYS)
        return Piece(rust, python, size, ways, piece.degree * self.most), False


def one_of(parts: Sequence[Piece]) -> Piece:
    """The alternatives of a group."""
    return Piece(
        "|".join(part.rust for part in parts),
        "|".join(part.python for part in parts),
        sum(part.size for part in parts),
        min(sum(part.ways for part in parts), _MANY_WAYS),
        max(part.degree for part in parts),
    )


def in_a_row(parts: Sequence[Piece]) -> Piece:
    """Parts that follow one another."""
    return Piece(
        "".join(part.rust for part in parts),
        "".join(part.python for part in parts),
        sum(part.size for part in parts),
        min(prod(part.ways for part in parts), _MANY_WAYS),
        sum(part.degree for part in parts),
    )
