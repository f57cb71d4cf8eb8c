"""One row of a result: a mapping by column, which attributes and positions reach too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Columns = Mapping[str, int]


def columns_of(names: Sequence[str]) -> dict[str, int]:
    """Name to position; of two columns with one name the first."""
    columns: dict[str, int] = {}
    for position, name in enumerate(names):
        columns.setdefault(name, position)
    return columns


class Row(Mapping[str, Any]):
    """`row["name"]`, `row.name`, `row[0]`, `dict(row)`, `tuple(row.values())`. Read-only.

    A column whose name is that of a method of mappings (`keys`, `values`, `items`, `get`) is reached by `row["keys"]`.
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
        if name.startswith("__") or name in Row.__slots__:  # while it is copied or unpickled there are none yet
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
