"""The regular expressions of JSON Schema: those of ECMA-262, with the flag `u`, as editors read them.

A pattern is parsed strictly, so that what only Python knows is a fault here, as it is in an editor. It is then run by
the engine of pydantic (Rust), whose time is linear in the length of the text. That engine has neither look-around nor
back references. Leading lookaheads are run on their own. Other such patterns are run by `re`, and only within bounds
that keep them quick.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from pydantic_core import SchemaError, SchemaValidator, ValidationError
from pydantic_core.core_schema import str_schema

from pywatt_host.manifest.schema.ecmascript_parser import Parser, PatternError

_MAX_STEPS = 10_000_000  # of `re`, for one text


class TextTooLongError(ValueError):
    """A text is too long for a pattern with look-around or back references."""


@lru_cache(maxsize=512)
def compiled(pattern: str) -> Callable[[str], bool]:
    """A function that searches a text for the pattern. Raises PatternError; the function raises TextTooLongError."""
    parsed = Parser(pattern)
    piece = parsed.whole()
    if not parsed.beyond_rust:
        return _linear(piece.rust)
    ahead = parsed.conditions
    if ahead is not None:
        tests = [(_linear(rf"\A(?:{body})"), wanted) for body, wanted in ahead]
        rest = _linear(rf"\A(?:{parsed.rest})")
        return lambda text: rest(text) and all(test(text) is wanted for test, wanted in tests)
    return _bounded(piece.python, parsed)


def repeats_repetitions(pattern: str) -> bool:
    """Whether the pattern has a repetition in a repetition, for which `re` can take very long."""
    parsed = Parser(pattern)
    parsed.whole()
    return parsed.nested


def _linear(pattern: str) -> Callable[[str], bool]:
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


def _bounded(pattern: str, parsed: Parser) -> Callable[[str], bool]:
    if parsed.properties:
        raise PatternError("a Unicode property cannot be combined with look-around or back references here")
    if parsed.nested:
        raise PatternError("a repetition in a repetition, with look-around or back references, can take very long")
    try:
        search = re.compile(pattern, re.ASCII).search
    except (re.error, OverflowError, RecursionError) as exc:
        reason = str(exc).partition(" at position")[0]
        raise PatternError(f"the pattern is not supported: {reason}") from None
    loops = parsed.loops + (0 if parsed.anchored else 1)
    longest = None if loops < 1 else round(_MAX_STEPS ** (1 / loops))

    def matches(text: str) -> bool:
        if longest is not None and len(text) > longest:
            raise TextTooLongError
        return search(text) is not None

    return matches
