"""The spellings of a secret: what it looks like in a text after encoders were at work, as a regular expression.

Letters and digits are the same in every encoding but base64. For each other character the expression has all its usual
spellings: as it is, after backslashes (`repr`, JSON, and JSON within JSON, which doubles them), as a number after a
backslash, percent-coded (in either case, and coded again), and as an entity of HTML. So one expression finds a value
however the encoders were combined. All repetitions are bounded: a text takes time in proportion to its length.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

_PERCENT = r"%(?:25){0,3}"
_BACKSLASH = rf"(?:\\|{_PERCENT}5[cC])"
_BACKSLASHES = f"{_BACKSLASH}{{0,15}}"  # as many as there are after four times of JSON
_ESCAPED = f"{_BACKSLASH}{{1,15}}"
_PADDING = rf"(?:=|{_PERCENT}3[dD]){{0,2}}"
_LETTERS = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", "\v": "v", "\a": "a"}
_ENTITIES = {"&": "amp", "<": "lt", ">": "gt", '"': "quot|#34|#x22", "'": "apos|#39|#x27"}
_UNRESERVED = frozenset("-._~")
_MIN_LINE = 16  # bytes


@dataclass(frozen=True, slots=True)
class Unit:
    """An expression for one character. It is `plain` where it is that character itself."""

    expression: str
    plain: bool = False


class Spelling:
    """One spelling of a value, as an expression that is compiled when it is first needed.

    Nearly no text has even the longest run of letters and digits in it. Looking for `run` first takes a fraction of the
    time.
    """

    __slots__ = ("_expression", "_found", "_others", "length", "run")

    def __init__(self, units: Sequence[Unit]) -> None:
        self.length = len(units)  # in characters
        groups = [(plain, "".join(each.expression for each in group)) for plain, group in groupby(units, _is_plain)]
        self._expression = "".join(re.escape(text) if plain else text for plain, text in groups)
        runs = sorted((text for plain, text in groups if plain), key=len, reverse=True)
        self.run = runs[0] if runs else ""  # the longest one
        self._others = tuple(runs[1:])
        self._found: re.Pattern[str] | None = None

    def mask(self, text: str, mask: str) -> str:
        """The text, which has the `run` in it, with `mask` in place of what is spelt so."""
        for run in self._others:
            if run not in text:
                return text
        if self._found is None:
            self._found = re.compile(self._expression)
        return self._found.sub(mask, text)


def spellings(value: str, *, in_bytes: bool) -> Iterator[Spelling]:
    """All spellings of a value. With `in_bytes`, they are for UTF-8 bytes that are read as Latin-1."""
    yield Spelling(_of_text(value, in_bytes))
    # Logs split a key of many lines into its lines. A short line is not a secret by itself.
    for line in value.splitlines():
        if line != value and len(_utf8(line)) >= _MIN_LINE:
            yield Spelling(_of_text(line, in_bytes))
    # Base64, alone or among other bytes, such as those of HTTP basic auth. The characters that depend on other bytes as
    # well stay.
    data = _utf8(value)
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + data).decode().rstrip("=")
        partial = 1 if (shift + len(data)) % 3 else 0  # its last character has bits of a byte that may follow
        units = [_base64_unit(char) for char in text]
        end = [Unit(f"(?:{units[-1].expression}{_PADDING})?")] if partial and not shift else []
        yield Spelling([*units[shift + 1 if shift else 0 : len(units) - partial], *end])


def _is_plain(unit: Unit) -> bool:
    return unit.plain


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


# Characters -----------------------------------------------------------------------------------------------------------


def _of_text(text: str, in_bytes: bool) -> list[Unit]:
    # A run of backslashes is one unit: each encoder doubles it.
    return [
        _backslashes(len(part)) if part[0] == "\\" else _unit(part, in_bytes) for part in re.findall(r"\\+|[^\\]", text)
    ]


def _unit(char: str, in_bytes: bool) -> Unit:
    raw = _utf8(char).decode("latin-1") if in_bytes else char
    if char.isascii() and (char.isalnum() or char in _UNRESERVED):
        return Unit(char, plain=True)
    code = ord(char)
    numbers = [f"u{code:04x}", f"U{code:08x}"] if code <= 0xFFFF else [f"U{code:08x}"]
    numbers += [f"x{code:02x}"] if code <= 0xFF else []
    numbers += [_LETTERS[char]] if char in _LETTERS else []
    quoted = "".join(f"{_PERCENT}{_in_either_case(f'{byte:02x}')}" for byte in _utf8(char))
    ways = [f"{_BACKSLASHES if char.isascii() else ''}(?:{re.escape(raw)}|{quoted})"]
    ways += [f"{_ESCAPED}(?:{'|'.join(map(_in_either_case, numbers))})"]
    if not char.isascii():
        ways.append("".join(f"{_ESCAPED}x{_in_either_case(f'{byte:02x}')}" for byte in _utf8(char)))
    if code > 0xFFFF:
        pair = char.encode("utf-16-be").hex()
        ways.append("".join(f"{_ESCAPED}u{_in_either_case(half)}" for half in (pair[:4], pair[4:])))
    if char == " ":
        ways += [r"\+", f"{_PERCENT}2[bB]"]
    if char in _ENTITIES:
        ways.append(f"&(?:amp;){{0,3}}(?:{_ENTITIES[char]});")
    return Unit(f"(?:{'|'.join(ways)})")


def _backslashes(number: int) -> Unit:
    """A run of so many backslashes: 1, 2, 4, 8 or 16 times as many, and no more, since one that follows escapes what
    comes after it."""
    ways = [f"{_BACKSLASH}{{{number * times}}}" for times in (16, 8, 4, 2, 1)]
    ways.append(f"(?:{_ESCAPED}(?:x|u00)5[cC]){{{number}}}")
    return Unit(f"(?>{'|'.join(ways)})")  # the most is right: an encoder puts fewer before the character that follows


def _base64_unit(char: str) -> Unit:
    """A character of base64, in either of its alphabets."""
    if char == "+":
        return Unit(f"(?:[+-]|{_PERCENT}2[bB])")
    if char == "/":
        return Unit(f"(?:_|{_BACKSLASHES}/|{_PERCENT}2[fF])")
    return Unit(char, plain=True)


def _in_either_case(text: str) -> str:
    """An expression for hexadecimal digits in small and capital letters. The letter of an escape stays as it is."""
    kind, digits = (text[0], text[1:]) if text[0] in "uUx" or len(text) == 1 else ("", text)
    return kind + "".join(f"[{char}{char.upper()}]" if char.isalpha() else char for char in digits)
