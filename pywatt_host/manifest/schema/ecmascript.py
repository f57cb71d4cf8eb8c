"""The regular expressions of JSON Schema: those of ECMA-262, with the flag `u`, as editors read them.

A pattern is parsed strictly, so that what only Python knows is a fault here, as it is in an editor. It is then run by
the engine of pydantic (Rust), whose time is linear in the length of the text. That engine has neither look-around nor
back references. Leading lookaheads are run on their own. Other such patterns are run by `re`, which tries one way to
match after the other: only those whose number of ways has a limit, and only on texts for which that limit is low.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from pydantic_core import SchemaError, SchemaValidator, ValidationError
from pydantic_core.core_schema import str_schema

from pywatt_host.manifest.schema.ecmascript_parser import Parser, PatternError
from pywatt_host.manifest.schema.ecmascript_pieces import Piece

_MAX_SIZE = 20_000  # atoms; reading a pattern of this size takes less than a second
_MAX_TRIES = 10_000_000  # of `re`, for one text
_SHORTEST = 16  # a pattern that is too much work for a text of this length is refused
_Test: TypeAlias = Callable[[str], bool]


class TextTooLongError(ValueError):
    """A text is too long for a pattern with look-around or back references."""


class Pattern:
    """A pattern that is ready to search a text."""

    def __init__(self, test: _Test, size: int, work: Callable[[int], float] | None = None) -> None:
        """`size` is the number of its atoms. `work` gives the number of tries of `re` for a text of some length."""
        self.size = size
        self._test = test
        self._work = work

    def __call__(self, text: str) -> bool:
        """Whether the pattern matches somewhere in the text. Raises TextTooLongError."""
        if self._work is not None and self._work(len(text)) > _MAX_TRIES:
            raise TextTooLongError
        return self._test(text)

    def steps(self, text: str) -> int:
        """How long a search takes at most, where 1 is about the time of one keyword of a schema."""
        if self._work is not None:
            return 1 + round(min(self._work(len(text)), _MAX_TRIES)) // 500
        return 1 + self.size * len(text) // 5_000


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Pattern:
    """Read a pattern. Raises PatternError."""
    parsed = Parser(pattern)
    piece = parsed.whole()
    if piece.size > _MAX_SIZE:
        raise PatternError("the pattern is too large")
    if not parsed.beyond_rust:
        return Pattern(_linear(piece.rust), piece.size)
    ahead = parsed.conditions
    if ahead is not None:
        tests = [(_linear(rf"\A(?:{body.rust})"), wanted) for body, wanted in ahead]
        rest = _linear(rf"\A(?:{parsed.rest.rust})")
        size = parsed.rest.size + sum(body.size for body, _ in ahead)
        return Pattern(lambda text: rest(text) and all(test(text) is wanted for test, wanted in tests), size)
    return _with_tries(piece, parsed)


def _linear(pattern: str) -> _Test:
    try:
        validator = SchemaValidator(str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError as exc:
        known = "Unicode property not found" not in str(exc) and "property value" not in str(exc)
        message = "the pattern is too large" if known else "the pattern names a Unicode property that does not exist"
        raise PatternError(message) from None

    def matches(text: str) -> bool:
        try:
            validator.validate_python(text)
        except ValidationError:
            return False
        return True

    return matches


def _with_tries(piece: Piece, parsed: Parser) -> Pattern:
    if parsed.properties:
        raise PatternError("a Unicode property cannot be combined with look-around or back references here")
    degree = piece.degree + (0 if parsed.anchored else 1)

    def work(length: int) -> float:
        return float(piece.size * piece.ways * length**degree)

    if parsed.ambiguous or work(_SHORTEST) > _MAX_TRIES:
        raise PatternError(
            "a repetition or choice in a repetition, with look-around or back references, can take very long"
        )
    try:
        search = re.compile(piece.python, re.ASCII).search
    except (re.error, OverflowError, RecursionError) as exc:
        reason = str(exc).partition(" at position")[0]
        raise PatternError(f"the pattern is not supported: {reason}") from None
    return Pattern(lambda text: search(text) is not None, piece.size, work)
