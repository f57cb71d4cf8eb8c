"""Splits a command line as a shell does, without running anything. Variables of the environment stay variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.shell_variables import Variables
from pywatt_host.imports.shell_words import Word, assigned, is_assignment
from pywatt_host.imports.text import Template, Text, Variable

_MAX_WORDS = 10_000
_BUILTINS = frozenset({"set", "unset", "export", "declare", "typeset", "readonly", "local"})
_KEYWORDS = frozenset({"then", "else", "do", "!", "{"})  # before a command
_ENDS = frozenset({"fi", "done", "esac", "}"})
_TESTS = frozenset({"[", "[[", "test"})
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-=])([^{}$`\"'\\]*))?\})")
_OPERATORS = ("&&", "||", ";;", ";", "|", "&", "(", ")")
_REDIRECTION = re.compile(r"[0-9]*(?:>>|>&|<&|>|<)&?")


@dataclass(frozen=True, slots=True)
class SimpleCommand:
    """One command: the variables that are set for it, and its words."""

    variables: dict[str, Word]
    words: tuple[Word, ...]
    line: int


def commands(
    text: str,
    file: str,
    line: int = 1,
    *,
    exported: Mapping[str, Word] | None = None,
    known: Mapping[str, Word] | None = None,
) -> list[SimpleCommand]:
    """The commands of a shell script, in order. Variables that the script sets are replaced where it uses them, and
    those that it exports hold for all commands that follow. `exported` are variables that are set from the start,
    `known` is what takes their place in the words (by default they themselves). Raises UnreadableError for quotes that
    are not closed."""
    found: list[SimpleCommand] = []
    variables = Variables(file, dict(exported or {}), dict(known if known is not None else exported or {}))
    for given, conditional in _split(text, file, line):
        variables.enter(given[0].plain)
        words = variables.replaced(given)
        while words and words[0].plain in _KEYWORDS:
            words.pop(0)
        if not words or words[0].plain in _ENDS:
            continue
        if words[0].plain in _BUILTINS:
            variables.builtin(words[0].plain, words[1:], conditional)
            continue
        if words[0].plain == ":":
            variables.assign_defaults(given[1:])
            continue
        own: dict[str, Word] = {}
        while words and is_assignment(words[0]):
            name, value = assigned(words.pop(0))
            own[name] = value
        if words:
            found.append(SimpleCommand(variables.exported | own, tuple(words), given[0].line))
        else:
            variables.assign(own, conditional)
    return found


def _split(text: str, file: str, line: int) -> Iterator[tuple[list[Word], bool]]:
    """The words of each command, and whether it depends on the one before: `[ -z "$A" ] && A=1`, `false || A=1`."""
    scanner = _Scanner(text, file, line)
    words: list[Word] = []
    skip = conditional = False
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
            yield words, conditional
            conditional = token == "||" or (token == "&&" and (conditional or words[0].plain in _TESTS))
            words = []
    if words:
        yield words, conditional


class _Scanner:
    def __init__(self, text: str, file: str, line: int) -> None:
        self._text = text
        self._file = file
        self._line = line
        self._at = 0

    def next(self) -> Word | str | None:
        """The next word; the operator where a command ends; `>` for a redirection; None at the end."""
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
                return operator
            else:
                return self._word()
        return None

    def _word(self) -> Word:
        line, text = self._line, self._text
        pieces: list[Text] = []
        computed = ""
        quote, quoted = "", False
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
                quote, quoted = "" if quote else char, True
                self._at += 1
            elif (char == "$" and quote != "'") or (char == "`" and quote != "'"):
                computed += self._expansion(pieces)
            else:
                pieces.append(char)
                self._at += 1
        if quote:
            raise UnreadableError(Place(self._file, line), f"the quote {quote} is not closed")
        return Word(Template.joined(*pieces) if pieces else "", line, computed, quoted)

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
