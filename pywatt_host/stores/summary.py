"""What the span of a statement says about it: its text without values, and its summary.

OpenTelemetry's semantic conventions for databases (stable since 1.33) ask for both: `db.query.text` with placeholders
in place of values, and `db.query.summary`, which names the operation and the tables, and is the name of the span.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pywatt_host.stores.databases.statement import MYSQL, POSTGRESQL, SQLITE, Dialect, end_of_nested

LONGEST_TEXT = 2048  # characters of a text
_LONGEST_READ = 4 * LONGEST_TEXT  # characters of a statement that are looked at
_LONGEST_SUMMARY = 255  # characters; the conventions allow that many
_DIALECTS = {"postgresql": POSTGRESQL, "mysql": MYSQL, "sqlite": SQLITE}

# A word that begins with a digit: an integer, a float, a hexadecimal number.
_NUMBER = re.compile(r"(?<![\w$])\d[\w.]*")
_NUMBER_OF_SQLITE = re.compile(r"(?<![\w$@:?])\d[\w.]*")  # which has the placeholders ?1, :1 and @1
# Before a quoted name of SQLite. Anywhere else, a text in double quotes may be a string.
_BEFORE_NAME = re.compile(r"(?:\.|\b(?:FROM|JOIN|INTO|UPDATE|TABLE|AS|EXISTS))\s*\Z", re.IGNORECASE)
_QUOTES = re.compile(r'["`\[\]]')
_SPACE = re.compile(r"\s+")
_VERB = re.compile(r"\(*\s*([A-Za-z]{1,32})\b")
_MAIN_VERB = re.compile(r"(?<!FOR )(?<!DO )\b(?:INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_NAME = r"""(?:"[^"]*"|`[^`]*`|\[[^\]]*\]|[A-Za-z_\x80-\U0010ffff][\w$]*)"""
_PATH = rf"({_NAME}(?:\.{_NAME})*)"
# A name with a parenthesis after FROM is a function; after INTO and TABLE it is a table with its columns.
_TARGET = re.compile(
    rf"(?<!DISTINCT )(?<!KEY )\b(?:FROM|JOIN|UPDATE(?:\s+ONLY)?)\s+{_PATH}(?![\w$.])(?!\s*\()"
    rf"|\b(?:INTO|TABLE(?:\s+IF(?:\s+NOT)?\s+EXISTS)?)\s+{_PATH}",
    re.IGNORECASE,
)
_NO_TARGETS = frozenset({"select", "set", "only", "lateral", "values", "nothing", "if", "of", "skip", "nowait"})


class Summary(NamedTuple):
    """`text` is empty where the kind of database is not known: what a literal is depends on it."""

    text: str
    operation: str
    targets: tuple[str, ...]

    @property
    def short(self) -> str:
        """The operation and the tables, as in `SELECT users orders`."""
        return " ".join((self.operation, *self.targets))[:_LONGEST_SUMMARY]


def summarise(kind: str, statement: str) -> Summary:
    """The summary of a statement for a kind of database.

    >>> summarise("postgresql", "SELECT * FROM users WHERE name = 'Ada' AND age > 36 -- hers").text
    'SELECT * FROM users WHERE name = ? AND age > ?'
    >>> summarise("postgresql", "INSERT INTO orders (id) SELECT id FROM baskets WHERE id = $1").short
    'INSERT orders baskets'
    """
    dialect = _DIALECTS.get(kind)
    text = without_values(dialect, statement[:_LONGEST_READ]) if dialect is not None else ""
    verb = _VERB.match(text if dialect is not None else statement.lstrip())
    operation = verb[1].upper() if verb is not None else "statement"
    if operation == "WITH":
        main = _MAIN_VERB.search(text)
        operation = main[0].upper() if main is not None else "SELECT" if text else "WITH"
    found = {each[1] or each[2]: None for each in _TARGET.finditer(text)}
    targets = tuple(_QUOTES.sub("", name) for name in found if name.lower() not in _NO_TARGETS)
    return Summary(text[:LONGEST_TEXT], operation, targets[:10])


def without_values(dialect: Dialect, statement: str) -> str:
    """A statement with `?` in place of its strings and numbers, and without its comments. Placeholders stay."""
    pieces: list[str] = []
    number = _NUMBER_OF_SQLITE if dialect is SQLITE else _NUMBER
    at = 0
    while (match := dialect.tokens.search(statement, at)) is not None:
        pieces.append(number.sub("?", statement[at : match.start()]))
        groups, token = match.groupdict(), match[0]
        at = end_of_nested(statement, match.end()) if groups.get("nested") else match.end()
        if groups["position"] is not None or groups["name"] is not None:
            pieces.append(token)
        elif token.startswith(("--", "/*", "#")):
            pieces.append(" ")
        elif token[0] in "`[" or (token[0] == '"' and _is_name(dialect, statement, match)):
            pieces.append(token)
        else:
            pieces.append("?")
    pieces.append(number.sub("?", statement[at:]))
    return _SPACE.sub(" ", "".join(pieces)).strip()


def _is_name(dialect: Dialect, statement: str, match: re.Match[str]) -> bool:
    """Whether a text in double quotes is a name: never for MySQL, always for PostgreSQL. SQLite reads it as a string
    where no column has that name, so there it is one only where nothing but a name can stand."""
    if dialect is not SQLITE:
        return dialect is not MYSQL
    before = statement[max(0, match.start() - 20) : match.start()]
    return statement.startswith(".", match.end()) or _BEFORE_NAME.search(before) is not None
