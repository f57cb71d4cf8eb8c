"""JSON with comments, as the tools of NGINX Unit accept it, with the line of each value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.manifest.problems import near_miss, quote

_MAX_DEPTH = 64
_MAX_NODES = 20_000
_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}
_LONGEST_NUMBER = 30  # characters


@dataclass(slots=True)
class Node:
    """One value: a dict or a list of nodes, or a scalar. `path` is the way to it, `used` says whether the import has
    looked at it."""

    value: Any
    line: int
    path: str
    file: str
    used: bool = False

    @property
    def place(self) -> Place:
        return Place(self.file, self.line)

    def child(self, key: str) -> Node | None:
        """The value of a key, which counts as used; None if there is none."""
        if not isinstance(self.value, dict):
            raise UnreadableError(self.place, f"{self.path or 'the configuration'} is not an object")
        found = self.value.get(key)
        if isinstance(found, Node):
            found.used = True
            return found
        return None

    def children(self) -> dict[str, Node]:
        """The values of an object by key. They count as used."""
        if not isinstance(self.value, dict):
            raise UnreadableError(self.place, f"{self.path or 'the configuration'} is not an object")
        for each in self.value.values():
            each.used = True
        return dict(self.value)

    def items(self) -> list[Node]:
        """The items of a list; a value that is no list is a list of itself. They count as used."""
        some = self.value if isinstance(self.value, list) else [self]
        for each in some:
            each.used = True
        return list(some)

    def text(self) -> str:
        """The value as a text. Raises UnreadableError for anything else."""
        if not isinstance(self.value, str):
            raise UnreadableError(self.place, f"{self.path} is not a string")
        return self.value

    def whole(self) -> int:
        """The value as a whole number that is not negative."""
        if isinstance(self.value, bool) or not isinstance(self.value, int) or self.value < 0:
            raise UnreadableError(self.place, f"{self.path} is not a whole number from 0")
        return self.value

    def plain(self) -> Any:
        """The value without positions. All of it counts as used."""
        self.used = True
        if isinstance(self.value, dict):
            return {key: each.plain() for key, each in self.value.items()}
        if isinstance(self.value, list):
            return [each.plain() for each in self.value]
        return self.value

    def unused(self) -> Iterator[Node]:
        """The values that nobody has looked at, each with all that is below it."""
        if not self.used:
            yield self
        elif isinstance(self.value, dict | list):
            for each in self.value.values() if isinstance(self.value, dict) else self.value:
                yield from each.unused()


def parse_json(text: str, file: str) -> Node:
    """Parse a document. Raises UnreadableError with the line of the first fault."""
    parser = _Parser(text, file)
    found = parser.value("", 0)
    parser.blank()
    if parser.at < len(text):
        parser.fail("there is something after the end of the document", "a comma or a bracket may be missing")
    return found


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self.at = 0
        self._text = text
        self._file = file
        self._line = 1
        self._counted = 0  # the position up to which lines were counted
        self._nodes = 0

    def fail(self, message: str, hint: str = "") -> UnreadableError:
        raise UnreadableError(Place(self._file, self.line()), message, hint)

    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def blank(self) -> None:
        match = _BLANK.match(self._text, self.at)
        self.at = match.end() if match is not None else self.at

    def value(self, path: str, depth: int) -> Node:
        self.blank()
        self._nodes += 1
        if depth > _MAX_DEPTH:
            self.fail(f"the configuration is nested more than {_MAX_DEPTH} times")
        if self._nodes > _MAX_NODES:
            self.fail(f"the configuration has more than {_MAX_NODES} values")
        line, char = self.line(), self._text[self.at : self.at + 1]
        found: Any
        if char == "{":
            found = self._object(path, depth)
        elif char == "[":
            found = self._list(path, depth)
        else:
            found = self._scalar(char)
        return Node(found, line, path, self._file)

    def _object(self, path: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        self.at += 1
        while not self._ends("}", bool(found)):
            if self._text[self.at : self.at + 1] != '"':
                self.fail("a key in double quotes is expected", "JSON allows no comma before a closing bracket")
            key = self._string()
            if key in found:
                self.fail(f"the key {quote(key)} is given twice", "remove one of them")
            self.blank()
            if self._text[self.at : self.at + 1] != ":":
                self.fail(f"a colon is expected after {quote(key)}")
            self.at += 1
            found[key] = self.value(f"{path}.{key}" if path else key, depth + 1)
        return found

    def _list(self, path: str, depth: int) -> list[Node]:
        found: list[Node] = []
        self.at += 1
        while not self._ends("]", bool(found)):
            found.append(self.value(f"{path}[{len(found)}]", depth + 1))
        return found

    def _ends(self, bracket: str, more: bool) -> bool:
        """Whether the object or list ends here. Moves past the bracket, or past the comma between two entries."""
        self.blank()
        char = self._text[self.at : self.at + 1]
        if char == bracket:
            self.at += 1
            return True
        if more:
            if char != ",":
                self.fail(f'a comma or "{bracket}" is expected')
            self.at += 1
            self.blank()
        if self.at >= len(self._text):
            self.fail(f'the document ends before "{bracket}"')
        return False

    def _string(self) -> str:
        match = _STRING.match(self._text, self.at)
        if match is None:
            self.fail("a string is not closed, or has a character that needs an escape")
        assert match is not None
        self.at = match.end()
        text = str(json.loads(match[0]))
        if any("\ud800" <= char <= "\udfff" for char in text) or "\0" in text:
            self.fail("a string has NUL, or half of a character")
        return text

    def _scalar(self, char: str) -> Any:
        if char == '"':
            return self._string()
        match = _NUMBER.match(self._text, self.at)
        if match is not None:
            if len(match[0]) > _LONGEST_NUMBER:
                self.fail("a number is too long")
            self.at = match.end()
            return json.loads(match[0])
        for word, value in _WORDS.items():
            if self._text.startswith(word, self.at):
                self.at += len(word)
                return value
        if not char:
            self.fail("the document ends where a value is expected")
        rest = re.split(r"[\s,\]}]", self._text[self.at : self.at + 20])[0]
        near = near_miss(rest, _WORDS)
        self.fail(
            f"{quote(rest)} is not a JSON value", f"did you mean {near}?" if near else "put texts in double quotes"
        )
        return None
