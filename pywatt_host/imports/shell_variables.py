"""The variables that a shell script sets, and what the words are in which it uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.shell_words import Word, assigned, is_assignment
from pywatt_host.imports.text import Template, Text, Variable

_BEGINS = frozenset({"if", "for", "while", "until", "case"})
_ENDS = frozenset({"fi", "done", "esac"})
_MAX_LENGTH = 100_000  # characters of a word


@dataclass(slots=True)
class Variables:
    """The variables of a script by now. `exported` are those that its commands get, `known` is what takes their place
    in words. What an `if` or a loop assigns is not known."""

    file: str
    exported: dict[str, Word]
    known: dict[str, Word]
    _names: set[str] = field(default_factory=set)  # that are exported, with a value or without one
    _all: bool = False  # `set -a`
    _depth: int = 0  # of `if` and loops

    def __post_init__(self) -> None:
        self._names |= self.exported.keys()

    def enter(self, word: str) -> None:
        """Note the first word of a command, which may begin or end an `if` or a loop."""
        self._depth = max(0, self._depth + (word in _BEGINS) - (word in _ENDS))

    def assign(self, values: Mapping[str, Word], conditional: bool, *, export: bool = False) -> None:
        """Assign variables."""
        for name, value in values.items():
            if export or self._all:
                self._names.add(name)
            if name in self._names:
                self.exported[name] = value
            if conditional or self._depth:
                self.known.pop(name, None)
            else:
                self.known[name] = value

    def assign_defaults(self, words: Sequence[Word]) -> None:
        """Assign what `: ${NAME:=default}` assigns."""
        for word in words:
            for variable in word.text.variables if isinstance(word.text, Template) else ():
                if variable.default is not None and variable.name not in self.known:
                    self.known[variable.name] = Word(Template((variable,)), word.line)

    def builtin(self, name: str, words: Sequence[Word], conditional: bool) -> None:
        """Do what `set`, `unset`, `export` and their like do with variables."""
        options = "".join(word.plain[1:] for word in words if word.plain.startswith("-"))
        if name == "set":
            if "a" in options or any(word.plain == "allexport" for word in words):
                self._all = not any(word.plain.startswith("+") for word in words)
            elif any(word.plain == "+a" for word in words):
                self._all = False
            return
        export = name == "export" or "x" in options
        for word in words:
            if is_assignment(word):
                self.assign(dict([assigned(word)]), conditional, export=export)
            elif name == "unset":
                self.known.pop(word.plain, None)
                self.exported.pop(word.plain, None)
                self._names.discard(word.plain)
            elif export and word.plain and not word.plain.startswith("-"):
                self._names.add(word.plain)
                if word.plain in self.known:
                    self.exported[word.plain] = self.known[word.plain]

    def replaced(self, words: Sequence[Word]) -> list[Word]:
        """Words with the values in the place of the variables that are known."""
        found: list[Word] = []
        for word in words:
            if not isinstance(word.text, Template) or not any(each.name in self.known for each in word.text.variables):
                found.append(word)
                continue
            made = self._replaced(word, word.text)
            if len(word.text.parts) == 1 and not word.quoted and not made.computed:
                found += [Word(each, word.line) for each in _fields(made.text)]
            else:
                found.append(made)
        return found

    def _replaced(self, word: Word, text: Template) -> Word:
        pieces: list[Text] = []
        computed = word.computed
        for part in text.parts:
            value = self.known.get(part.name) if isinstance(part, Variable) else None
            if isinstance(part, str):
                pieces.append(part)
            elif value is None:
                pieces.append(Template((part,)))
            elif value.text == "" and not value.computed:
                pieces.append(part.default or "")
            else:
                pieces.append(value.text)
                computed += value.computed
        if sum(map(_length, pieces)) + len(computed) > _MAX_LENGTH:
            raise UnreadableError(Place(self.file, word.line), "the script makes a word that is too long")
        return Word(Template.joined(*pieces) if pieces else "", word.line, computed, word.quoted)


def _length(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(len(str(part)) for part in text.parts)


def _fields(text: Text) -> list[Text]:
    """The words of a value without quotes, which the shell divides at its spaces."""
    found: list[Text] = []
    apart = True
    for part in text.parts if isinstance(text, Template) else (text,):
        if isinstance(part, Variable):
            found = [*found, Template((part,))] if apart or not found else [*found[:-1], _joined(found[-1], part)]
            apart = False
            continue
        for number, piece in enumerate(part.split()):
            if number or apart or not found or part[0].isspace():
                found.append(piece)
            else:
                found[-1] = Template.joined(found[-1], piece)
        apart = part[-1:].isspace()
    return found


def _joined(text: Text, variable: Variable) -> Text:
    return Template.joined(text, Template((variable,)))
