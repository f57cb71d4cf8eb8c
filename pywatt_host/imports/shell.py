"""Splits a command line as a shell does, without running anything. Variables of the environment stay variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.text import Template, Text, Variable

_MAX_WORDS = 10_000
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?-)([^{}$`\"'\\]*))?\})")
_OPERATORS = ("&&", "||", ";;", ";", "|", "&", "(", ")")
_REDIRECTION = re.compile(r"[0-9]*(?:>>|>&|<&|>|<)&?")


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command line, and its line. `computed` is what the shell would run to get it: `$(nproc)`."""

    text: Text
    line: int
    computed: str = ""

    @property
    def plain(self) -> str:
        """The word as it is written; empty for one with variables."""
        return self.text if isinstance(self.text, str) and not self.computed else ""


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """One command: the variables that are set for it, and its words."""

    variables: dict[str, Word]
    words: tuple[Word, ...]
    line: int


def commands(text: str, file: str, line: int = 1) -> list[SimpleCommand]:
    """The commands of a shell script, in order. `export NAME=value` holds for all that follow. Raises UnreadableError
    for quotes that are not closed."""
    found: list[SimpleCommand] = []
    exported: dict[str, Word] = {}
    for words in _split(text, file, line):
        own: dict[str, Word] = {}
        if words[0].plain == "export":
            exported |= dict(map(_assigned, filter(_is_assignment, words[1:])))
            continue
        rest = list(words)
        while rest and _is_assignment(rest[0]):
            name, value = _assigned(rest.pop(0))
            own[name] = value
        if rest:
            found.append(SimpleCommand(exported | own, tuple(rest), words[0].line))
        else:
            exported |= own
    return found


def _is_assignment(word: Word) -> bool:
    return _ASSIGNMENT.match(_start(word)) is not None


def _start(word: Word) -> str:
    if isinstance(word.text, str):
        return word.text
    first = word.text.parts[0]
    return first if isinstance(first, str) else ""


def _assigned(word: Word) -> tuple[str, Word]:
    name, _, start = _start(word).partition("=")
    rest = word.text.parts[1:] if isinstance(word.text, Template) else ()
    return name, Word(Template.joined(start, *(Template((part,)) for part in rest)), word.line, word.computed)


def _split(text: str, file: str, line: int) -> Iterator[list[Word]]:
    """The words of each command."""
    scanner = _Scanner(text, file, line)
    words: list[Word] = []
    skip = False
    while (token := scanner.next()) is not None:
        if isinstance(token, Word):
            if skip:
                skip = False  # the target of a redirection
            else:
                words.append(token)
            if len(words) > _MAX_WORDS:
                raise UnreadableError(Place(file, token.line), "the command line has too many words")
        elif token == ">":
            skip = True
        elif words:
            yield words
            words = []
    if words:
        yield words


class _Scanner:
    def __init__(self, text: str, file: str, line: int) -> None:
        self._text = text
        self._file = file
        self._line = line
        self._at = 0

    def next(self) -> Word | str | None:
        """The next word; `;` where a command ends; `>` for a redirection; None at the end."""
        text = self._text
        while self._at < len(text):
            if text.startswith("\\\n", self._at):
                self._line += 1
                self._at += 2
            elif text.startswith("\\\r\n", self._at):
                self._line += 1
                self._at += 3
            elif text[self._at] == "\n":
                self._line += 1
                self._at += 1
                return ";"
            elif text[self._at].isspace():
                self._at += 1
            elif text[self._at] == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif (match := _REDIRECTION.match(text, self._at)) is not None:
                self._at = match.end()
                return ">"
            elif (operator := next((each for each in _OPERATORS if text.startswith(each, self._at)), "")) != "":
                self._at += len(operator)
                return ";"
            else:
                return self._word()
        return None

    def _word(self) -> Word:
        line, text = self._line, self._text
        pieces: list[Text] = []
        computed = ""
        quote = ""
        while self._at < len(text):
            char = text[self._at]
            if quote == "" and (char.isspace() or char in ";|&()<>"):
                break
            if char == "\n":
                self._line += 1
            if char == "\\" and quote != "'":
                following = text[self._at + 1 : self._at + 2]
                if following == "\n":
                    self._line += 1
                elif quote and following not in ('"', "\\", "$", "`"):
                    pieces.append("\\" + following)
                else:
                    pieces.append(following)
                self._at += 2
            elif char in "\"'" and quote in ("", char):
                quote = "" if quote else char
                self._at += 1
            elif (char == "$" and quote != "'") or (char == "`" and quote != "'"):
                computed += self._expansion(pieces)
            else:
                pieces.append(char)
                self._at += 1
        if quote:
            raise UnreadableError(Place(self._file, line), f"the quote {quote} is not closed")
        return Word(Template.joined(*pieces) if pieces else "", line, computed)

    def _expansion(self, pieces: list[Text]) -> str:
        """Read what begins with `$` or a backquote. Returns what the shell would run."""
        text = self._text
        match = _VARIABLE.match(text, self._at)
        if match is not None:
            default = match[4] if match[3] else None
            pieces.append(Template((Variable(match[1] or match[2], default),)))
            self._at = match.end()
            return ""
        end = self._end_of_command()
        if end is None:
            pieces.append(text[self._at])
            self._at += 1
            return ""
        command = text[self._at : end]
        self._line += command.count("\n")
        self._at = end
        return command

    def _end_of_command(self) -> int | None:
        """Where `$(...)`, `${...}` or a pair of backquotes ends; None for a lone dollar sign."""
        text, opening = self._text, self._text[self._at : self._at + 2]
        if opening.startswith("`"):
            end = text.find("`", self._at + 1)
            return end + 1 if end > 0 else len(text)
        if opening not in ("$(", "${"):
            return None
        pair = {"$(": "()", "${": "{}"}[opening]
        depth = 0
        for at in range(self._at + 1, len(text)):
            depth += (text[at] == pair[0]) - (text[at] == pair[1])
            if depth == 0:
                return at + 1
        raise UnreadableError(Place(self._file, self._line), f"{opening} is not closed")
