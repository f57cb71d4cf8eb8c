"""Reads the options of a server's command line by a table of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pywatt_host.imports.draft import Setting
from pywatt_host.imports.findings import Place, UnreadableError
from pywatt_host.imports.shell_words import Word
from pywatt_host.imports.text import Template, Text
from pywatt_host.manifest.machine import usable_cores
from pywatt_host.manifest.problems import near_miss

# value: takes a value. list: may be repeated. on, off: takes none. maybe: takes one, or none.
OptionKind: TypeAlias = Literal["value", "list", "on", "off", "maybe"]

_CORES = re.compile(r"\$\(\s*nproc\s*\)|`\s*nproc\s*`")
_ARITHMETIC = re.compile(r"[\d\s()+*-]+\Z")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: the name of its setting, its spellings, and whether it takes a value."""

    name: str
    flags: tuple[str, ...]
    kind: OptionKind = "value"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """The settings of a command line, in its order, and its other words."""

    settings: list[Setting]
    words: list[Word]


def table(lines: str) -> tuple[Option, ...]:
    """A table of options from lines such as `workers: -w --workers` and `reload: --reload = on`."""
    found = []
    for line in filter(None, map(str.strip, lines.splitlines())):
        name, _, rest = line.partition(":")
        flags, _, kind = rest.partition("=")
        known: dict[str, OptionKind] = {"": "value", "list": "list", "on": "on", "off": "off", "maybe": "maybe"}
        found.append(Option(name, tuple(flags.split()), known[kind.strip()]))
    return tuple(found)


def parse(words: Sequence[Word], options: Iterable[Option], file: str, program: str) -> CommandLine:
    """The settings of a command line. Options may be shortened, as argparse and click allow. Raises UnreadableError for
    an option that the server does not have, or that lacks its value."""
    flags = {flag: option for option in options for flag in option.flags}
    found: dict[str, Setting] = {}
    others: list[Word] = []
    left = list(words)
    while left:
        word = left.pop(0)
        start = word.text if isinstance(word.text, str) else _literal(word.text)
        place = Place(file, word.line)
        if word.plain == "--":
            others += left
            break
        if not start.startswith("-") or start == "-":
            others.append(word)
            continue
        flag, equals, _ = start.partition("=")
        attached: Text | None = _after(word.text, len(flag) + 1) if equals else None
        if not flag.startswith("--") and flag not in flags and flag[:2] in flags:
            flag, attached = flag[:2], _after(word.text, 2)
        elif not flag.startswith("--") and not equals and (isinstance(word.text, Template) or word.computed):
            attached = _after(word.text, len(flag))  # as in -b$BIND and -w$(nproc)
        option = _option(flag, flags, place, program)
        value: Any = option.kind == "on"
        if option.kind in ("value", "list") or (option.kind == "maybe" and (attached is not None or _next(left))):
            if attached is None and not left:
                raise UnreadableError(place, f"{flag} of {program} has no value")
            value = attached if attached is not None else left.pop(0)
            value = _value(value if isinstance(value, Word) else Word(value, word.line, word.computed), flag, place)
        elif attached is not None:
            raise UnreadableError(place, f"{flag} of {program} takes no value")
        elif option.kind == "maybe":
            value = True
        if option.kind == "list" and option.name in found:
            value = [*found[option.name].value, value]
        elif option.kind == "list":
            value = [value]
        found[option.name] = Setting(option.name, value, place)
    return CommandLine(list(found.values()), others)


def _next(left: Sequence[Word]) -> bool:
    return bool(left) and left[0].plain in ("off", "v1", "v2", "auto")


def _literal(text: Template) -> str:
    return text.parts[0] if isinstance(text.parts[0], str) else ""


def _after(text: Text, length: int) -> Text:
    """The text without its first characters."""
    if isinstance(text, str):
        return text[length:]
    return Template.joined(_literal(text)[length:], *(Template((part,)) for part in text.parts[1:]))


def _option(flag: str, flags: dict[str, Option], place: Place, program: str) -> Option:
    if flag in flags:
        return flags[flag]
    meant = {flags[each].name for each in flags if flag.startswith("--") and len(flag) > 2 and each.startswith(flag)}
    if len(meant) == 1:
        return next(option for option in flags.values() if option.name in meant)
    near = near_miss(flag, flags)
    hint = f"did you mean {near}?" if near else "write the command line as the server accepts it"
    raise UnreadableError(place, f"{program} has no option {flag[:60]}", hint)


def _value(word: Word, flag: str, place: Place) -> Text | int:
    if not word.computed:
        return word.text
    text = _CORES.sub(str(usable_cores()), word.computed)
    text = text.removeprefix("$((").removesuffix("))") if text.startswith("$((") else text
    if word.text == "" and _ARITHMETIC.match(text) and len(text) < 60:
        number = _sum(text)
        if number is not None:
            return number
    raise UnreadableError(
        place, f"the value of {flag} is computed by the shell: {word.computed[:60]}", "write the value itself"
    )


def _sum(text: str) -> int | None:
    """A sum of products, such as `2 * 4 + 1`."""
    total = 0
    for term in text.replace("(", "").replace(")", "").split("+"):
        product = 1
        for factor in term.split("*"):
            if not factor.strip().isdecimal():
                return None
            product *= int(factor)
        total += product
    return total
