"""Parses the regular expressions of ECMA-262 with the flag `u`, and translates them to the syntax of two engines."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from pywatt_host.manifest.schema.ecmascript_pieces import Piece, Repetition, in_a_row, one_of

MAX_LENGTH = 2000  # characters of a pattern
_MAX_DEPTH = 50  # groups in groups
_PROPERTY_SIZE = 100  # a Unicode property is a set of many ranges

_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_CONTROL = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_DIGIT, _WORD = "0-9", "A-Za-z0-9_"
_SPACE_RUST = r"\t-\r \xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{feff}"
_SPACE_PYTHON = r"\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_SETS = {"d": (_DIGIT, _DIGIT), "w": (_WORD, _WORD), "s": (_SPACE_RUST, _SPACE_PYTHON)}
_PROPERTY = re.compile(r"\{([A-Za-z_]+)(?:=([A-Za-z0-9_]+))?\}")
_NAME = re.compile(r"<([A-Za-z_$][A-Za-z0-9_$]*)>")
_BOUNDS = re.compile(r"\{(\d{1,5})(?:(,)(\d{1,5})?)?\}", re.ASCII)


class PatternError(ValueError):
    """A text is not a regular expression of ECMA-262, or one that could take too long. `at` counts from 0; None where
    the whole pattern is at fault."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.at = at


@dataclass(slots=True)
class _Class:
    """The content of `[...]`. A range starts with a character, not with a set."""

    rust: list[str] = field(default_factory=list)
    python: list[str] = field(default_factory=list)


class Parser:
    """Parses one pattern, and translates it."""

    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0
        self._groups = len(re.findall(r"(?<!\\)\((?!\?)|\(\?<(?![=!])", pattern))
        self._names: set[str] = set()
        self._wanted: list[tuple[str, int]] = []  # names of back references, and where they are
        self.beyond_rust = False
        self.properties = False
        self.ambiguous = False  # an engine with backtracking could take very long
        self.anchored = pattern.startswith("^")
        self.conditions: list[tuple[Piece, bool]] | None = None  # leading lookaheads, and whether they must match
        self.rest = Piece("", "")

    def whole(self) -> Piece:
        """The translation of the whole pattern."""
        if len(self._text) > MAX_LENGTH:
            raise PatternError(f"the pattern has more than {MAX_LENGTH} characters")
        found = self._alternatives()
        if self._at < len(self._text):
            raise self._fault("a parenthesis is closed that is not open")
        for name, at in self._wanted:
            if name not in self._names:
                raise PatternError(f"no group has the name {name}", at)
        if self.beyond_rust and self.anchored:
            self._split()
        return found

    def _split(self) -> None:
        """Separate the lookaheads at the start from the rest, if nothing else needs look-around."""
        part = Parser(self._text)
        part._at = 1
        found: list[tuple[Piece, bool]] = []
        while part._text.startswith(("(?=", "(?!"), part._at):
            wanted = part._text[part._at + 2] == "="
            part._at += 3
            part.beyond_rust = False
            body = part._alternatives()
            part._at += 1
            if part.beyond_rust:
                return
            found.append((body, wanted))
        part.beyond_rust = False
        rest = part._sequence()
        if part._at == len(self._text) and not part.beyond_rust:
            self.conditions, self.rest = found, rest

    def _fault(self, message: str) -> PatternError:
        return PatternError(message, self._at)

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : self._at + length]

    def _alternatives(self) -> Piece:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._fault("the groups are nested too deep")
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            self.anchored = self.anchored and self._depth > 1  # only the first alternative is known to be
            parts.append(self._sequence())
        self._depth -= 1
        return one_of(parts)

    def _sequence(self) -> Piece:
        parts = []
        while self._at < len(self._text) and self._peek() not in "|)":
            atom, repeatable = self._atom()
            part, ambiguous = self._quantifier(repeatable).of(atom)
            self.ambiguous = self.ambiguous or ambiguous
            parts.append(part)
        return in_a_row(parts)

    def _quantifier(self, repeatable: bool) -> Repetition:
        start, least, most = self._at, 0, None
        if self._peek() in ("*", "+", "?") and self._peek():
            least, most = int(self._peek() == "+"), 1 if self._peek() == "?" else None
            self._at += 1
        elif self._peek() == "{":
            bounds = _BOUNDS.match(self._text, self._at)
            if bounds is None:
                raise self._fault("a brace must be written as \\{, or be a repetition such as {2} or {1,5}")
            if bounds[3] is not None and int(bounds[3]) < int(bounds[1]):
                raise self._fault("the bounds of the repetition are out of order")
            least = int(bounds[1])
            most = None if bounds[2] is not None and bounds[3] is None else int(bounds[3] or bounds[1])
            self._at = bounds.end()
        else:
            return Repetition("")
        if not repeatable:
            self._at = start
            raise self._fault("nothing is here that could be repeated")
        if self._peek() == "?":
            self._at += 1
        quantifier = self._text[start : self._at]
        if self._peek() in ("*", "+", "?", "{") and self._peek():
            raise self._fault("a repetition cannot be repeated (possessive quantifiers are not part of ECMA-262)")
        return Repetition(quantifier, least, most)

    def _atom(self) -> tuple[Piece, bool]:
        """The next atom, and whether it may be repeated."""
        char = self._peek()
        if char in "*+?{}]":
            name = "nothing is here that could be repeated" if char in "*+?" else f"write \\{char} for the character"
            raise self._fault(name)
        if char == "[":
            return self._class(), True
        if char == "(":
            return self._group()
        if char == "\\":
            return self._escape()
        self._at += 1
        if char == "^":
            return Piece(r"\A", r"\A"), False
        if char == "$":
            return Piece(r"\z", r"\Z"), False
        if char == ".":
            return Piece(r"[^\n\r\x{2028}\x{2029}]", r"[^\n\r\u2028\u2029]"), True
        return _literal(ord(char)), True

    def _group(self) -> tuple[Piece, bool]:
        start = self._at
        opening, repeatable = "(?:", True
        if self._peek(3) == "(?:":
            self._at += 3
        elif self._peek(3) in ("(?=", "(?!") or self._peek(4) in ("(?<=", "(?<!"):
            opening = self._peek(3) if self._peek(3) in ("(?=", "(?!") else self._peek(4)
            self._at += len(opening)
            self.beyond_rust, repeatable = True, False
        elif self._peek(3) == "(?<":
            name = _NAME.match(self._text, self._at + 2)
            if name is None:
                raise self._fault("the name of the group is not valid")
            if name[1] in self._names:
                raise self._fault(f"two groups have the name {name[1]}")
            self._names.add(name[1])
            self._at = name.end()
            opening = f"(?P<{name[1].replace('$', '_')}>"
        elif self._peek(2) == "(?":
            raise self._fault(f"{self._peek(3)} is not part of ECMA-262")
        else:
            self._at += 1
            opening = "("
        body = self._alternatives()
        if self._peek() != ")":
            self._at = start
            raise self._fault("the parenthesis is not closed")
        self._at += 1
        return body._replace(rust=f"{opening}{body.rust})", python=f"{opening}{body.python})"), repeatable

    def _escape(self) -> tuple[Piece, bool]:
        char = self._text[self._at + 1 : self._at + 2]
        if char in ("b", "B") and char:
            self._at += 2
            return Piece(f"\\{char}", f"\\{char}"), False
        if char and char in "123456789":
            digits = re.compile(r"[0-9]+").match(self._text, self._at + 1)
            assert digits is not None
            if int(digits[0]) > self._groups:
                raise self._fault(f"there is no group {digits[0]}")
            self._at = digits.end()
            self.beyond_rust = True
            return Piece("", f"(?:\\{digits[0]})", degree=1), True
        if char == "k":
            name = _NAME.match(self._text, self._at + 2)
            if name is None:
                raise self._fault("\\k must be followed by the name of a group, such as \\k<year>")
            self._wanted.append((name[1], self._at))
            self._at = name.end()
            self.beyond_rust = True
            return Piece("", f"(?P={name[1].replace('$', '_')})", degree=1), True
        found = self._set()
        if found is not None:
            rust, python = found
            is_property = rust[:2] in ("\\p", "\\P")
            whole = rust if is_property or rust.startswith("[^") else f"[{rust}]"
            return Piece(whole, python, _PROPERTY_SIZE if is_property else 1), True
        return _literal(self._character(in_class=False)), True

    def _set(self) -> tuple[str, str] | None:
        """The set of characters that an escape such as `\\d` stands for, to be written in brackets; None if it is a
        single character. A negated set of Rust and a property have brackets, or need none."""
        char = self._text[self._at + 1 : self._at + 2]
        if char and char.lower() in _SETS and char in "dDwWsS":
            self._at += 2
            rust, python = _SETS[char.lower()]
            return (rust, f"[{python}]") if char.islower() else (f"[^{rust}]", f"[^{python}]")
        if char and char in "pP":
            match = _PROPERTY.match(self._text, self._at + 2)
            if match is None:
                raise self._fault(f"\\{char} must be followed by a Unicode property, such as \\{char}{{L}}")
            self._at = match.end()
            self.properties = True
            body = match[1] if match[2] is None else f"{match[1]}={match[2]}"
            return f"\\{char}{{{body}}}", ""
        return None

    def _character(self, *, in_class: bool) -> int:
        """The character of an escape, as its code point."""
        char = self._text[self._at + 1 : self._at + 2]
        if char in _CONTROL:
            self._at += 2
            return _CONTROL[char]
        if in_class and char == "b":
            self._at += 2
            return 8
        if char == "0" and not self._text[self._at + 2 : self._at + 3].isdigit():
            self._at += 2
            return 0
        for form in (r"\\c([A-Za-z])", r"\\x([0-9A-Fa-f]{2})", r"\\u\{([0-9A-Fa-f]{1,6})\}", r"\\u([0-9A-Fa-f]{4})"):
            match = re.compile(form).match(self._text, self._at)
            if match is None:
                continue
            code = ord(match[1]) % 32 if char == "c" else int(match[1], 16)
            low = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})").match(self._text, match.end())
            if 0xD800 <= code <= 0xDBFF and low is not None:
                self._at = low.end()
                return 0x10000 + ((code - 0xD800) << 10) + int(low[1], 16) - 0xDC00
            if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF:
                raise self._fault(f"{match[0]} is not a character")
            self._at = match.end()
            return code
        if char and (char in _SYNTAX or (in_class and char == "-")):
            self._at += 2
            return ord(char)
        shown = f"\\{char}" if char else "a backslash at the end"
        raise self._fault(f"{shown} is not an escape of ECMA-262")

    def _class(self) -> Piece:
        start = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        content = _Class()
        while self._peek() != "]":
            if not self._peek():
                self._at = start
                raise self._fault("the bracket is not closed")
            self._entry(content)
        self._at += 1
        if not content.rust:
            anything = r"[\x00-\x{10ffff}]", r"[\x00-\U0010ffff]"
            return Piece(*anything) if negated else Piece(r"[a&&b]", r"(?!)")
        sign = "^" if negated else ""
        size = 1 + len(content.rust) // 10 + _PROPERTY_SIZE * sum(each[:2] in ("\\p", "\\P") for each in content.rust)
        return Piece(f"[{sign}{''.join(content.rust)}]", f"[{sign}{''.join(content.python)}]", size)

    def _entry(self, content: _Class) -> None:
        """One character, set or range of a class."""
        low = self._member(content)
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            if low is not None:
                self._add(content, low, low)
            return
        at = self._at
        self._at += 1
        high = self._member(_Class())
        if low is None or high is None:
            self._at = at
            raise self._fault("a range of characters cannot begin or end with a set")
        if high < low:
            self._at = at
            raise self._fault("the range of characters is out of order")
        self._add(content, low, high)

    def _member(self, content: _Class) -> int | None:
        """The next character; None after a set, which is added to the content."""
        if self._peek() != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        found = self._set()
        if found is None:
            return self._character(in_class=True)
        rust, python = found
        content.rust.append(rust)
        # In a class, `re` has no sets in sets, but with the flag for ASCII it has these.
        negated = python.startswith("[^")
        content.python.append(self._text[self._at - 2 : self._at] if negated else python[1:-1])
        return None

    def _add(self, content: _Class, low: int, high: int) -> None:
        first, last = _literal(low), _literal(high)
        content.rust.append(first.rust if low == high else f"{first.rust}-{last.rust}")
        content.python.append(first.python if low == high else f"{first.python}-{last.python}")


def _literal(code: int) -> Piece:
    """One character, in a form that has no other meaning, in a class neither."""
    char = chr(code)
    if char.isascii() and char.isalnum():
        return Piece(char, char)
    return Piece(f"\\x{{{code:x}}}", f"\\U{code:08x}")
