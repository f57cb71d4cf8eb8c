"""One row of a result: a mapping of columns to values, with access by attribute and position too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Columns = Mapping[str, int]


def columns_of(names: Sequence[str]) -> dict[str, int]:
    """Return the position of each column by name. If two columns have the same name, the first one counts."""
    columns: dict[str, int] = {}
    for position, name in enumerate(names):
        columns.setdefault(name, position)
    return columns


class Row(Mapping[str, Any]):
    """One row of a result: a read-only mapping of columns to values.

    A value is reached by name, by attribute or by position, from 0. A column that has the name of a method of mappings
    (`keys`, `values`, `items`, `get`) is reached by name only, as in `row["keys"]`. A name that is not a column raises
    KeyError, or AttributeError for an attribute.

    >>> row = Row(columns_of(["id", "text"]), [1, "buy milk"])
    >>> row["text"], row.text, row[1]
    ('buy milk', 'buy milk', 'buy milk')
    >>> dict(row), tuple(row.values())
    ({'id': 1, 'text': 'buy milk'}, (1, 'buy milk'))
    """

    __slots__ = ("_columns", "_values")

    def __init__(self, columns: Columns, values: Sequence[Any]) -> None:
        self._columns = columns
        self._values = values

    def __getitem__(self, key: str | int) -> Any:
        if isinstance(key, str):
            return self._values[self._columns[key]]
        return self._values[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Row.__slots__:  # while it is copied or unpickled, its slots are not set yet
            raise AttributeError(name)
        position = self._columns.get(name)
        if position is None:
            raise AttributeError(f"the row has no column {name!r} (columns: {', '.join(self._columns)})")
        return self._values[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __contains__(self, key: object) -> bool:
        return key in self._columns

    def __eq__(self, other: object) -> bool:
        return dict(self) == dict(other) if isinstance(other, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # its values may be mutable

    def __reduce__(self) -> tuple[type[Row], tuple[dict[str, int], tuple[Any, ...]]]:
        return Row, (dict(self._columns), tuple(self._values))

    def __repr__(self) -> str:
        return f"<Row {' '.join(f'{name}={self._values[at]!r}' for name, at in self._columns.items())}>"
