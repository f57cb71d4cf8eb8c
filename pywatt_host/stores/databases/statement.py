"""Turns the placeholders of a statement into those of the driver.

Applications write `$1` or `:name` for every kind of database; drivers want `$1`, `%s` or `?`. Placeholders in literals,
quoted names and comments are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from pywatt_host.exceptions import StoreError

# The arguments of a call: values for $1, $2, ... in order, or a mapping for :name.
Arguments: TypeAlias = Sequence[Any] | Mapping[str, Any]

# A literal or comment that is not terminated reaches to the end of the text; nothing in it is a placeholder.
_SINGLE = r"'[^']*(?:''[^']*)*(?:'|\Z)"
_SINGLE_BACKSLASH = r"'[^'\\]*(?:(?:''|\\.)[^'\\]*)*(?:'|\\?\Z)"
_DOUBLE = r'"[^"]*(?:""[^"]*)*(?:"|\Z)'
_DOUBLE_BACKSLASH = r'"[^"\\]*(?:(?:""|\\.)[^"\\]*)*(?:"|\\?\Z)'
_BACKTICK = r"`[^`]*(?:``[^`]*)*(?:`|\Z)"
_BRACKET = r"\[[^\]]*(?:\]|\Z)"
_LINE = r"--[^\n]*"
_MYSQL_LINE = r"(?:--(?=\s|\Z)|#)[^\n]*"
_BLOCK = r"/\*.*?(?:\*/|\Z)"
_NESTED = r"(?P<nested>/\*)"
_DOLLAR = r"(?<![\w$])\$(?P<tag>[A-Za-z_\x80-\U0010ffff][\w]*)?\$.*?(?:\$(?P=tag)\$|\Z)"
_BARE_DOLLAR = r"(?<![\w$])\$\$.*?(?:\$\$|\Z)"
_POSITION = r"(?<![\w$])\$(?P<position>[1-9][0-9]{0,4})(?![\w$])"
_NAME = r"(?<![\w:])(?<!\\):(?P<name>[A-Za-z_]\w*)"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of database writes literals and placeholders.

    `mark` returns the driver's placeholder for the n-th value, from 1. `repeats` says that each occurrence takes a
    value of its own; `percent` says that a lone % must be written twice.
    """

    name: str
    tokens: re.Pattern[str]
    mark: Callable[[int], str]
    repeats: bool = False
    percent: bool = False


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join((*alternatives, _POSITION, _NAME)), re.DOTALL)


POSTGRESQL = Dialect(
    "postgresql",
    _pattern(rf"(?<!\w)[eE]{_SINGLE_BACKSLASH}", _SINGLE, _DOUBLE, _LINE, _NESTED, _BARE_DOLLAR, _DOLLAR),
    lambda number: f"${number}",
)
MYSQL = Dialect(
    "mysql",
    _pattern(_SINGLE_BACKSLASH, _DOUBLE_BACKSLASH, _BACKTICK, _MYSQL_LINE, _BLOCK),
    lambda number: "%s",
    repeats=True,
    percent=True,
)
SQLITE = Dialect(  # Python would take placeholders with numbers, such as ?1, for names
    "sqlite",
    _pattern(_SINGLE, _DOUBLE, _BACKTICK, _BRACKET, _LINE, _BLOCK),
    lambda number: "?",
    repeats=True,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A text with the driver's placeholders.

    `order` says, for each value that the driver gets, which argument it is: a position from 0, or a name. `positions`
    is the number of positional arguments; `names` are the named ones.
    """

    text: str
    order: tuple[int | str, ...]
    positions: int
    names: frozenset[str]

    def values(self, arguments: Arguments, store: str) -> tuple[Any, ...]:
        """Return the driver's values. Raises StoreError (`arguments`) if one is missing or superfluous."""
        if isinstance(arguments, Mapping):
            if arguments.keys() != self.names:
                self._refuse_names(arguments, store)
            return tuple(arguments[name] for name in self.order)  # type: ignore[index]  # order has names here
        if len(arguments) != self.positions:
            placeholders = f"${self.positions}" if self.positions == 1 else f"$1 to ${self.positions}"
            has = placeholders if self.positions else "no placeholder"
            _refuse(store, f"the statement has {has}, but {len(arguments)} values were given")
        if self.order == tuple(range(self.positions)):
            return tuple(arguments)
        return tuple(arguments[number] for number in self.order)  # type: ignore[index]  # order has positions here

    def _refuse_names(self, arguments: Mapping[str, Any], store: str) -> NoReturn:
        missing = sorted(self.names - arguments.keys())
        if missing:
            _refuse(store, f"no value was given for :{', :'.join(missing)}")
        extra = ", :".join(str(name) for name in arguments if name not in self.names)
        _refuse(store, f"the statement has no :{extra}")


def _refuse(store: str, message: str) -> NoReturn:
    raise StoreError(store, "arguments", message)


def bind(dialect: Dialect, text: str, arguments: Arguments, store: str) -> tuple[str, tuple[Any, ...]]:
    """Return the text and the values for the driver. Raises StoreError (`arguments`)."""
    if isinstance(arguments, Mapping):
        statement = _named(dialect, text)
    elif arguments:
        statement = _positional(dialect, text)
    else:
        statement = _bare(dialect, text)
    return statement.text, statement.values(arguments, store)


def arguments_of(text: str, args: Sequence[Any], named: Mapping[str, Any], store: str) -> Arguments:
    """Return the arguments of a call: `(text, 1, 2)`, `(text, {"a": 1})` or `(text, a=1)`.

    A single mapping has the named values, unless the text contains `$1`: then it is one JSON value. Raises StoreError
    (`arguments`).
    """
    if named:
        if args:
            _refuse(store, "values were given both in order and by name; use $1 or :name, not both")
        return named
    if len(args) == 1 and isinstance(args[0], Mapping) and "$1" not in text:
        return dict(args[0])
    return args


@lru_cache(maxsize=1024)
def _positional(dialect: Dialect, text: str) -> Statement:
    """Replace `$n`, and leave `:name` alone."""
    order: list[int | str] = []
    highest = 0

    def mark(position: str | None, name: str | None) -> str | None:
        nonlocal highest
        if position is None:
            return None
        number = int(position)
        highest = max(highest, number)
        order.append(number - 1)
        return dialect.mark(number)

    rendered = _rewritten(dialect, text, mark, percent=dialect.percent)
    if not dialect.repeats:
        order = list(range(highest))
    return Statement(rendered, tuple(order), highest, frozenset())


@lru_cache(maxsize=1024)
def _named(dialect: Dialect, text: str) -> Statement:
    """Replace `:name`, and leave `$n` alone."""
    order: list[int | str] = []
    numbers: dict[str, int] = {}

    def mark(position: str | None, name: str | None) -> str | None:
        if name is None:
            return None
        if dialect.repeats or name not in numbers:
            numbers.setdefault(name, len(numbers) + 1)
            order.append(name)
        return dialect.mark(numbers[name])

    rendered = _rewritten(dialect, text, mark, percent=dialect.percent)
    return Statement(rendered, tuple(order), 0, frozenset(numbers))


@lru_cache(maxsize=1024)
def _bare(dialect: Dialect, text: str) -> Statement:
    """Keep the text of a statement without values as it is; but count `$n`, which needs a value."""
    highest = 0

    def mark(position: str | None, name: str | None) -> str | None:
        nonlocal highest
        highest = max(highest, int(position or 0))
        return None

    _rewritten(dialect, text, mark, percent=False)
    return Statement(text, (), highest, frozenset())


def _rewritten(
    dialect: Dialect, text: str, mark: Callable[[str | None, str | None], str | None], *, percent: bool
) -> str:
    parts: list[str] = []
    at = start = 0
    while (match := dialect.tokens.search(text, at)) is not None:
        groups = match.groupdict()
        at = end_of_nested(text, match.end()) if groups.get("nested") else match.end()
        position, name = groups["position"], groups["name"]
        if position is None and name is None:
            continue
        marked = mark(position, name)
        if marked is not None:
            parts += (_percent(text[start : match.start()], percent), marked)
            start = match.end()
    parts.append(_percent(text[start:], percent))
    return "".join(parts)


def _percent(text: str, twice: bool) -> str:
    return text.replace("%", "%%") if twice else text


_COMMENT_EDGE = re.compile(r"/\*|\*/")


def end_of_nested(text: str, at: int) -> int:
    """Return where a comment ends that may contain comments; `at` is the position after its first `/*`."""
    depth = 1
    while depth:
        edge = _COMMENT_EDGE.search(text, at)
        if edge is None:
            return len(text)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at


def statements(dialect: Dialect, text: str) -> list[str]:
    """Split a script at each `;` outside of literals and comments, and leave out empty statements."""
    found: list[str] = []
    at = start = 0
    while at < len(text):
        match = dialect.tokens.search(text, at)
        end = match.start() if match is not None else len(text)
        while (semicolon := text.find(";", at, end)) >= 0:
            found.append(text[start:semicolon])
            at = start = semicolon + 1
        if match is None:
            break
        at = end_of_nested(text, match.end()) if match.groupdict().get("nested") else match.end()
    found.append(text[start:])
    return [each for each in (part.strip() for part in found) if _has_code(dialect, each)]


def _has_code(dialect: Dialect, text: str) -> bool:
    """Whether the text contains more than comments."""
    rest = re.sub(r"--[^\n]*|/\*.*?(\*/|\Z)" + (r"|#[^\n]*" if dialect is MYSQL else ""), "", text, flags=re.DOTALL)
    return bool(rest.strip())
